-- Rows and indexes in memory, and queries that sort, join and group.
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, article TEXT, price REAL);
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 200000)
INSERT INTO orders SELECT n, n * 7919 % 5003, 'article-' || (n * 104729 % 997), n % 1000 / 7.0 FROM numbers;
CREATE INDEX by_customer ON orders (customer);
CREATE INDEX by_article ON orders (article, price);
SELECT count(*) FROM (SELECT customer, sum(price), group_concat(article) FROM orders GROUP BY customer);
SELECT count(*) FROM orders a JOIN orders b ON a.article = b.article AND a.customer = b.customer;
SELECT count(*) FROM (SELECT DISTINCT upper(article) || customer FROM orders ORDER BY 1 DESC);
UPDATE orders SET article = article || '-' || customer WHERE id % 3 = 0;
DELETE FROM orders WHERE id % 5 = 0;
SELECT count(*), sum(length(article)) FROM orders;
