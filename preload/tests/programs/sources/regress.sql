-- Every session runs it in a schema of its own; it prints the same in each.
SET client_min_messages = warning;
CREATE TABLE tide (id int PRIMARY KEY, place int, height numeric(10, 3), day date, note text, tags text[], data jsonb);
INSERT INTO tide SELECT i, i * 7919 % 97, i * 37 % 10007 / 7.0, date '2020-01-01' + i % 1500,
  substr(repeat(md5(i::text), 1 + i % 40), 1, i * 13 % 1200), ARRAY['a' || i % 5, 'b' || i % 7],
  jsonb_build_object('id', i, 'list', (SELECT jsonb_agg(j * i % 11) FROM generate_series(1, i % 9) j))
  FROM generate_series(1, 12000) i;
CREATE INDEX ON tide (place, day);
CREATE INDEX ON tide USING hash (day);
CREATE INDEX ON tide USING gin (data);
CREATE INDEX ON tide USING gin (tags);
CREATE INDEX ON tide USING brin (id);
CREATE INDEX ON tide USING gin (to_tsvector('english', note));
CREATE INDEX ON tide USING gist (int4range(id, id + place));
CREATE INDEX ON tide USING spgist (left(note, 20));
ANALYZE tide;
SET jit_above_cost = 0;
SET jit_inline_above_cost = 0;
SET jit_optimize_above_cost = 0;
SELECT place, count(*), sum(height), max(md5(note)) FROM tide GROUP BY place ORDER BY place;
SELECT count(*), sum(a.height * b.height)::bigint FROM tide a JOIN tide b USING (day) WHERE a.place < b.place;
RESET jit_above_cost;
SELECT id, rank() OVER (PARTITION BY place ORDER BY height DESC, id), lag(id, 3) OVER (ORDER BY id)
  FROM tide WHERE id % 211 = 0 ORDER BY id;
SELECT day, string_agg(id::text, ',' ORDER BY id) FROM tide WHERE data @> '{"list": [3, 5]}' AND place < 9
  GROUP BY day ORDER BY day LIMIT 20;
SELECT count(*) FROM tide WHERE tags @> ARRAY['a1'] AND note ~ '(ab|cd)+[e-f0-9]{2,}';
SELECT count(*), max(ts_rank(to_tsvector('english', note), to_tsquery('english', 'a | b:*'))) >= 0 FROM tide;
WITH RECURSIVE walk(n, path) AS (SELECT 1, ARRAY[1] UNION ALL
  SELECT n * 31 % 10007, path || n * 31 % 10007 FROM walk WHERE cardinality(path) < 2000)
  SELECT count(*), sum(cardinality(path)), md5(array_to_string(max(path), ',')) FROM walk;
SELECT grouping(place, day), count(*), sum(height) FROM tide WHERE place < 5
  GROUP BY CUBE (place, day) ORDER BY 1, 3, 2 LIMIT 40;
CREATE FUNCTION churn(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE kept text[] := '{}'; failed int := 0;
BEGIN
  FOR i IN 1 .. n LOOP
    kept[i % 50] := repeat(chr(97 + i % 26), i % 3000);
    BEGIN
      PERFORM 1 / (i % 10);
    EXCEPTION WHEN division_by_zero THEN failed := failed + 1;
    END;
  END LOOP;
  RETURN md5(array_to_string(kept, ',')) || ' ' || failed;
END $$;
SELECT churn(5000);
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.note := upper(NEW.note) || TG_OP; RETURN NEW; END $$;
CREATE TRIGGER noted BEFORE UPDATE ON tide FOR EACH ROW EXECUTE FUNCTION noted();
BEGIN;
UPDATE tide SET height = height + 1 WHERE id % 3 = 0;
SAVEPOINT half;
DELETE FROM tide WHERE id % 2 = 0;
ROLLBACK TO half;
DELETE FROM tide WHERE id % 5 = 0;
COMMIT;
SELECT count(*), sum(height), md5(string_agg(note, ';' ORDER BY id)) FROM tide;
CREATE TABLE part (id int, text text) PARTITION BY HASH (id);
SELECT format('CREATE TABLE part%s PARTITION OF part FOR VALUES WITH (MODULUS 20, REMAINDER %s)', i, i)
  FROM generate_series(0, 19) i \gexec
INSERT INTO part SELECT id, note FROM tide ORDER BY id;
SELECT tableoid::regclass::text, count(*), max(length(text)) FROM part GROUP BY 1 ORDER BY 1;
PREPARE few(int) AS SELECT count(*), sum(length(text)) FROM part WHERE id % 1000 < $1;
EXECUTE few(10); EXECUTE few(20); EXECUTE few(30); EXECUTE few(40); EXECUTE few(50); EXECUTE few(60);
BEGIN;
DECLARE walker SCROLL CURSOR FOR SELECT id, md5(note) FROM tide ORDER BY note, id;
FETCH 3 FROM walker; MOVE 5000 IN walker; FETCH 3 FROM walker; FETCH BACKWARD 3 FROM walker;
COMMIT;
COPY (SELECT id, data, tags FROM tide WHERE id % 997 < 3 ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER);
SELECT md5(xmlagg(xmlelement(name tide, xmlattributes(id AS id), left(note, 50)) ORDER BY id)::text),
  cardinality(xpath('//tide[@id > 5000]', xmlelement(name all, xmlagg(xmlelement(name tide, xmlattributes(id))))))
  FROM tide;
SELECT id, to_char(day, 'FMDay DD Mon YYYY'), height::float8, data #>> '{list,0}', jsonb_pretty(data)
  FROM tide WHERE id % 4001 = 1 ORDER BY left(note, 30) COLLATE "en-x-icu", id;
SELECT encode(sha512(string_agg(note, '' ORDER BY id)::bytea), 'hex'), count(DISTINCT left(note, 2)) FROM tide;
SELECT length((3::numeric ^ 5000)::text), sqrt(2::numeric(1000, 900)), factorial(300) % 1000000007;
VACUUM (ANALYZE) tide;
VACUUM FULL part;
CLUSTER tide USING tide_pkey;
REINDEX TABLE tide;
SELECT count(*), sum(height) FROM tide WHERE place BETWEEN 10 AND 20 AND day > '2021-01-01';
