#!/usr/bin/env python3
"""Decrypts what a KMS plugin encrypted for Kubernetes as SPEC.md §12 has it, written from it alone; the rest of the format is open.py's.

    open_kms.py --vectors FILE                         checks every case of a file of vectors
    open_kms.py KEYRING KEYID < CIPHERTEXT             decrypts one ciphertext
    open_kms.py --kek KEKFILE KEYID ANNOTATIONFILE < CIPHERTEXT
                                                       one of a plugin with a key of a service, which has opened the KEK
"""
import hashlib
import json
import pathlib
import re
import sys

from open import HEX32, Refused, b64, check, label, read_keyring, unseal


def decrypt(keyring, key_id, ciphertext):
    check(re.fullmatch(HEX32, key_id), "not a key id [S12.2]")
    destroyed = re.search(rf"^{key_id} local destroyed ", keyring.decode(), re.M)
    check(not destroyed, f"key {key_id} is destroyed [S12.4]", "wrong-key")
    keys = read_keyring(keyring)
    check(key_id in keys, f"key {key_id} is not in the keyring [S12.4]", "not-found")
    text = unseal(ciphertext, keys[key_id][0], label("kms-plugin", bytes.fromhex(key_id)))
    check(1 <= len(text) <= 920, "length [S12.1]")
    return text


def of_service(kek, key_id, annotation, ciphertext):
    """[S12.6]"""
    check(2 <= len(annotation) <= 1 + (14 << 10), "length of the annotation [S12.6]", "usage")
    provider, blob, key = annotation[0], annotation[1:], key_id[:32]
    check(re.fullmatch(HEX32, key), "not a key id [S12.6]", "usage")
    name = None
    if provider == 1:
        name = blob[2:2 + int.from_bytes(blob[:2], "big")]
    elif provider == 3:
        name = blob.split(b":")[1]
    if name is not None:
        plain = 1 <= len(name) <= 200 and all(0x21 <= byte <= 0x7e for byte in name)
        key += ":" + (name.decode() if plain else hashlib.sha256(name).hexdigest())
    check(key_id == key, "the key id is not that of the annotation [S12.6]", "usage")
    text = unseal(ciphertext, kek, label("kms-plugin", bytes.fromhex(key_id[:32])))
    check(1 <= len(text) <= 920, "length [S12.1]")
    return text


def open_case(vectors, case):
    ciphertext = b64(case["ciphertext"])
    if "kek" in case:
        return of_service(b64(case["kek"]), case["key_id"], b64(case["annotation"]), ciphertext)
    return decrypt(vectors["keyring"].encode(), case["key_id"], ciphertext)


def run_vectors(path):
    vectors, failed = json.loads(path.read_text()), 0
    for case in vectors["cases"]:
        try:
            got = ("ok", open_case(vectors, case))
        except Refused as e:
            got = (e.outcome, None)
        wanted = (case["class"], b64(case["text"]) if "text" in case else None)
        if got != wanted:
            failed += 1
            print(f"{case['name']}: expected {wanted}, got {got}")
    print(f"{len(vectors['cases']) - failed} passed, {failed} failed")
    return 1 if failed or not vectors["cases"] else 0


def main(args):
    if args[0] == "--vectors":
        return run_vectors(pathlib.Path(args[1]))
    if args[0] == "--kek":
        kek, annotation = pathlib.Path(args[1]).read_bytes(), pathlib.Path(args[3]).read_bytes()
        sys.stdout.buffer.write(of_service(kek, args[2], annotation, sys.stdin.buffer.read()))
        return 0
    keyring, key_id = args
    sys.stdout.buffer.write(decrypt(pathlib.Path(keyring).read_bytes(), key_id, sys.stdin.buffer.read()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
