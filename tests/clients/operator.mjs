// Reads JSON documents, and checks those of the Prometheus operator's kinds against its schemas.
import { readFileSync } from "node:fs";

const [modules] = process.argv.slice(2);
for (const document of JSON.parse(readFileSync(0))) {
  if (!document.apiVersion.startsWith("monitoring.coreos.com/")) continue;
  const kinds = `${modules}/@kubernetes-models/prometheus-operator/${document.apiVersion}`;
  const { [document.kind]: Kind } = await import(`${kinds}/${document.kind}.js`);
  new Kind(document).validate();
  console.log(document.kind);
}
