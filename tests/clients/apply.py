"""apply.py URL TOKEN: creates the JSON documents on standard input at an API server, which checks every field, and prints
the status of each."""
import json
import ssl
import sys
import time
import urllib.error
import urllib.request

url, token = sys.argv[1:]
context = ssl._create_unverified_context()


def ask(path, body=None):
    data = json.dumps(body).encode() if body else None
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


# The priority classes are there a moment after it is ready.
deadline = time.monotonic() + 120
while any(ask(path)[0] != 200 for path in ["readyz", "apis/scheduling.k8s.io/v1/priorityclasses/system-cluster-critical"]):
    if time.monotonic() > deadline:
        sys.exit("the API server is not ready")
    time.sleep(0.2)
for document in json.load(sys.stdin):
    version, kind, metadata = document["apiVersion"], document["kind"], document["metadata"]
    path = ("apis/" if "/" in version else "api/") + version
    if "namespace" in metadata:
        path += f"/namespaces/{metadata['namespace']}"
    plural = kind.lower() + "s" if not kind.endswith("y") else kind.lower()[:-1] + "ies"
    status, text = ask(f"{path}/{plural}?fieldValidation=Strict", document)
    print(status, kind, metadata["name"], "" if status == 201 else text.replace("\n", " "))
