// Watches that outlive etcd, by etcd3 (npm): survival_etcd3.cjs MODULES ADDRESS PREFIX N. After `watching` it waits for a
// line of input, while etcd is killed and started again. Prints how many watches then see a put.
const [modules, address, prefix, count] = process.argv.slice(2);
const { Etcd3 } = require(modules + '/etcd3');

const delay = (time) => new Promise((resolve) => setTimeout(resolve, time));

async function put(client, key) {
  for (let left = 50; ; left--) {
    try {
      return await client.put(key).value('plaintext-after');
    } catch (error) {
      if (left === 0) throw error;
      await delay(200);
    }
  }
}

async function main() {
  const keys = Array.from({ length: Number(count) }, (_, at) => prefix + String(at).padStart(3, '0'));
  const alive = new Set();
  const clients = keys.filter((_, at) => at % 3 === 0).map(() => new Etcd3({ hosts: address }));
  for (const [at, key] of keys.entries()) {
    const watcher = await clients[Math.floor(at / 3)].watch().key(key).create();
    watcher.on('put', (kv) => alive.add(kv.key.toString()));
    watcher.on('error', (error) => console.error(key, String(error)));
  }
  console.log('watching');
  await new Promise((resolve) => process.stdin.once('data', resolve));
  for (const key of keys) await put(clients[0], key);
  for (let left = 75; left > 0 && alive.size < keys.length; left--) await delay(200);
  console.log('alive ' + alive.size);
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
