# Objects of many kinds, most of which live shortly: words counted, records sorted, trees built and walked.
import json

words = {}
for number in range(200_000):
    word = f"word-{number * 7919 % 20011}"
    words[word] = words.get(word, 0) + 1

records = [{"name": word, "count": count, "tags": [word[:3], word[-3:]]} for word, count in words.items()]
records.sort(key=lambda record: (record["count"], record["name"]))
for _ in range(3):
    records = json.loads(json.dumps(records))


def tree(depth):
    return (tree(depth - 1), tree(depth - 1)) if depth else None


def leaves(node):
    return leaves(node[0]) + leaves(node[1]) if node else 1


assert sum(leaves(tree(14)) for _ in range(10)) == 10 << 14

lines = [bytes(20 + number % 3000) for number in range(100_000)]
text = b"".join(lines)
assert len(text.split(bytes(1000))) > 1
