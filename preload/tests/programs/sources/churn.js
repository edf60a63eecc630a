// Workers, their messages, and what runs on the threads of node's own pool; prints what it computed.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { createHash, pbkdf2, randomFillSync } = require('crypto');
const { execFileSync } = require('child_process');
const zlib = require('zlib');

function churn(seed) {
    let state = seed + 1;
    const draw = (below) => (state = (state * 48271) % 2147483647) % below;
    const table = new Map();
    const hash = createHash('sha256');
    for (let i = 0; i < 60000; i++) {
        const buffer = Buffer.alloc(draw(2000), i & 255);
        table.set(draw(500), { buffer, text: String(i).repeat(draw(9)) });
        if (i % 500 === 0) {
            hash.update(zlib.gunzipSync(zlib.gzipSync(Buffer.alloc(draw(100000), seed))));
        }
    }
    for (const key of [...table.keys()].sort((a, b) => a - b)) {
        hash.update(table.get(key).buffer).update(table.get(key).text);
    }
    return hash.digest();
}

if (!isMainThread) {
    const array = new Uint8Array(churn(workerData));
    // Its memory goes over to the other thread.
    parentPort.postMessage(array, [array.buffer]);
} else {
    const started = (seed) => new Promise((resolve, reject) => {
        const worker = new Worker(__filename, { workerData: seed });
        let answer;
        worker.on('message', (array) => { answer = Buffer.from(array).toString('hex'); });
        worker.on('error', reject);
        worker.on('exit', (code) => (code === 0 ? resolve(answer) : reject(new Error(`exit ${code}`))));
    });
    const derived = (salt) => new Promise((resolve, reject) => {
        pbkdf2('tide', salt, 2000, 64, 'sha512', (error, key) =>
            error ? reject(error) : zlib.deflate(key.toString('base64').repeat(1000), (failed, packed) =>
                failed ? reject(failed) : resolve(zlib.inflateSync(packed).length)));
    });
    const stopped = async () => {
        const worker = new Worker('for (let list = [];;) { list.push(Buffer.alloc(100)); list.length %= 999; }',
            { eval: true });
        await new Promise((resolve) => worker.on('online', resolve));
        return worker.terminate();
    };
    (async () => {
        for (const answer of await Promise.all([0, 1, 2, 3, 4, 5].map(started))) console.log(answer);
        console.log((await Promise.all([...Array(40).keys()].map((i) => derived(`salt ${i}`)))).join());
        for (let i = 0; i < 3; i++) console.log(await stopped());
        console.log(randomFillSync(new Uint8Array(1 << 20)).length, churn(9).toString('hex'));
        console.log(execFileSync('echo', ['a child'], { encoding: 'utf8' }).trim());
    })();
}
