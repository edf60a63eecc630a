# Threads, fibers, children and the collector of Ruby; prints what it computed.
require 'digest/sha2'
require 'json'
require 'set'
require 'zlib'

def churn(seed)
  random = Random.new(seed)
  table = Hash.new { |hash, key| hash[key] = [] }
  20_000.times do |i|
    word = (0...random.rand(1..30)).map { random.rand(97..122).chr }.join
    table[word[0, 2]] << [i, word, word.to_sym.length]
    table.delete(table.first[0]) if table.size > 400
  end
  text = JSON.generate(table.sort.to_h)
  raise 'JSON' unless JSON.parse(text) == JSON.parse(JSON.generate(JSON.parse(text)))
  raise 'zlib' unless Zlib::Inflate.inflate(Zlib::Deflate.deflate(text)) == text

  [text.length, Digest::SHA256.hexdigest(text), text.scan(/[aeiou]{3,}/).size]
end

puts((0...4).map { |seed| Thread.new { churn(seed) } }.map { |thread| thread.value.inspect })
puts((0...300).map { |i| Thread.new { 'x' * (i * 100) }.value.length }.sum)
puts((0...200).map { |i| Fiber.new { Fiber.yield(i); i * 2 } }.map { |fiber| fiber.resume + fiber.resume }.sum)
grown = +''
20_000.times { |i| grown << 'tide' * (i % 50) }
puts grown.length, (3**20_000).to_s.length, Set.new(grown.each_char.first(1000)).size
GC.stress = true
puts (0...40).map { |i| "#{i}" * 10 }.join.length
GC.stress = false
GC.compact
GC.start
pipes = (0...3).map { |seed| IO.popen('-') { |pipe| pipe ? pipe.read : print(churn(seed).inspect) } }
puts pipes, `echo a child`
