// What a compiler gets: templates of the standard library, instantiated for several types.
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <regex>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

template <typename Key, typename Value> struct Shop {
    std::map<Key, std::vector<Value>> shelves;
    std::unordered_map<Key, std::shared_ptr<Value>> index;

    void put(Key key, Value value) {
        shelves[key].push_back(value);
        index[key] = std::make_shared<Value>(value);
    }

    std::string described() const {
        std::ostringstream text;
        for (const auto &[key, values] : shelves)
            for (const auto &value : values)
                text << key << ':' << value << '\n';
        return text.str();
    }
};

template struct Shop<int, std::string>;
template struct Shop<std::string, double>;
template struct Shop<long, long>;

std::vector<std::string> words(const std::string &text) {
    std::regex word("[a-z]+");
    std::vector<std::string> found(std::sregex_token_iterator(text.begin(), text.end(), word), {});
    std::sort(found.begin(), found.end(), std::greater<>());
    return found;
}
