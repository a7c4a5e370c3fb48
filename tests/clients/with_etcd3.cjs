// Puts etcd3 (npm) through its paces: with_etcd3.cjs MODULES ADDRESS. Prints what it got, a line each.
const [modules, address] = process.argv.slice(2);
const { Etcd3 } = require(modules + '/etcd3');

async function main() {
  const client = new Etcd3({ hosts: address });
  await client.put('js/a').value('plaintext-js-1');
  console.log(await client.get('js/a').string());
  await client.put('js/b').value('plaintext-js-2');
  console.log(JSON.stringify(await client.getAll().prefix('js/').strings()));
  const swap = () =>
    client.if('js/a', 'Value', '==', 'plaintext-js-1').then(client.put('js/a').value('plaintext-js-3')).commit();
  console.log((await swap()).succeeded, (await swap()).succeeded);
  const watcher = await client.watch().key('js/w').create();
  const seen = new Promise((resolve) => watcher.on('put', (kv) => resolve(kv.value.toString())));
  await client.put('js/w').value('plaintext-js-4');
  console.log(await seen);
  await watcher.cancel();
  const lease = client.lease(60);
  await lease.put('js/leased').value('plaintext-js-5');
  console.log(await client.get('js/leased').string());
  await lease.revoke();
  console.log(await client.get('js/leased').string());
  await client.lock('js/lock').do(async () => console.log('locked'));
  const election = client.election('js-office');
  const campaign = election.campaign('plaintext-js-6');
  await campaign.wait();
  console.log(await election.leader());
  await campaign.resign();
  await client.delete().prefix('js/');
  console.log(JSON.stringify(await client.getAll().prefix('js/').strings()));
  client.close();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
