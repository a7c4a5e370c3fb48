#!/usr/bin/env python3
"""Open a strongroom backup without strongroom. A second reader of the format, written from src/format/SPEC.md alone; the tags such as [S5.6] are that document's rules. It checks everything
and changes nothing in the repository. Needs Python 3.9+ and `pip install cryptography zstandard`.
    open.py REPOSITORY SNAPSHOT (--keyring FILE | --passphrase-file FILE | --identity FILE) [--signers FILE] [--origin UUID] [-o OUT]
    open.py --vectors DIR      (tests: each DIR/*.json says how the repository beside it must come out)
SNAPSHOT is an id (26 characters, a folder's name under snapshots/) or `latest`. OUT becomes what
`etcdctl snapshot save` wrote: database and 32-byte SHA-256; give it to `etcdutl snapshot restore`. Prints `ok <sha256> <revision>`, or
`<class>: <why>` and exits 1; classes are wrong-key, unsupported, truncated, tampered [§8].
"""
import argparse, base64, datetime, hashlib, hmac, io, itertools, json, os, pathlib, re, sys, time, zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519; hpke = openssl.hpke
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
KIB, MIB, same = 1 << 10, 1 << 20, hmac.compare_digest
HEX32, HEX64, NAME = "[0-9a-f]{32}", "[0-9a-f]{64}", "[a-z0-9][a-z0-9-]{0,31}"
ULID, GENERATION = "[0-7][0-9A-HJKMNP-TV-Z]{25}", "[1-9][0-9]{0,9}"; UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
ROLES, SUITES = {"payload": 0, "index": 1}, {1: (b"AEAD_AES_256_GCM", AESGCM), 2: (b"AEAD_CHACHA20_POLY1305", ChaCha20Poly1305)}
class Refused(Exception):
    def __init__(self, outcome, why): super().__init__(f"{outcome}: {why}"); self.outcome = outcome
def check(ok, why, outcome="tampered"):
    if not ok: raise Refused(outcome, why)

# --- §0: bytes, text, JSON
def expand(key, info, n):  # HKDF-Expand with SHA-512 [S0.1.2]
    one = hmac.new(key, info + b"\1", "sha512").digest(); return (one + hmac.new(key, one + info + b"\2", "sha512").digest())[:n]  # n is 128 at most
def label(name, data=b""): return b"strongroom/v1/" + name.encode() + b"\0" + data
def X(key, name, data=b""): return expand(key, label(name, data), 32)
def b64(text, length=None):  # [S0.2.6]
    check(re.fullmatch("[A-Za-z0-9+/]*", text) and len(text) % 4 != 1, "not base64"); raw = base64.b64decode(text + "=" * (-len(text) % 4))
    check(base64.b64encode(raw).decode().rstrip("=") == text and length in (None, len(raw)), "base64 of another length, or with unused bits set"); return raw
def number(text, low, high):  # [S0.2.4]
    check(re.fullmatch("0|[1-9][0-9]{0,18}", text) and low <= int(text) <= high, f"not a number in {low}..{high}: {text[:40]}"); return int(text)
def ulid(text):  # its 16 bytes [S0.3.2]
    digits = ["0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(c) for c in text]; return sum(d << 5 * i for i, d in enumerate(reversed(digits))).to_bytes(16, "big")
def ulid_ms(text): return int.from_bytes(ulid(text)[:6], "big")
def ascending(x): return all(a < b for a, b in zip(x, x[1:]))
def load(path, limit):  # one byte more than the limit shows that the file is too long
    check(path.exists(), f"{path} is absent", "truncated"); return path.open("rb").read(limit + 1)
def text_lines(data, kind, limit):  # [S0.2.1..7], in the order of [S0.2.7]
    m = re.fullmatch(rb"strongroom-%s/(0|[1-9][0-9]*)" % kind.encode(), data.split(b"\n", 1)[0]); check(not m or m[1] == b"1", f"a {kind} of another version", "unsupported")
    check(len(data) <= limit, f"a {kind} of more than {limit} bytes"); check(data.endswith(b"\n"), f"a {kind} without its last LF", "truncated")
    check(m, f"not a {kind}"); check(not re.search(rb"[^\x20-\x7e\n]", data), f"a {kind} with bytes outside 20..7E"); return data[:-1].decode("ascii").split("\n")
def tokens(line, first=None, count=None):
    t = line.split(" "); check("" not in t and (first is None or t[0] == first) and (count is None or len(t) == count), f"malformed line {line[:40]!r}, wanted {first or 'tokens'}"); return t
def parse_json(data, known=()):  # §0.4
    def integer(n): return number(n, 0, 2**63 - 1)  # [S0.4.1]: neither 1.0 nor 1e3 nor -0 is one
    def pairs(p): check(len(p) <= 256 and len(dict(p)) == len(p), "too many keys, or one twice [S0.4.2, S0.4.5]"); return dict(p)
    s, depth = data.decode("utf-8"), 0
    for m in re.finditer(r'"[^"\\]*(?:\\.?[^"\\]*)*(?:"|\Z)|[\[\]{}]|null', s, re.S):  # a string, so that nothing in it counts; a bracket; null
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(m[0], 0); check(depth <= 8 and m[0] != "null", "JSON with null, or nested too deep [S0.4.3, S0.4.4]")
    value = json.loads(s, object_pairs_hook=pairs, parse_int=integer, parse_float=integer, parse_constant=integer)
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    check(isinstance(value, dict), "JSON that is no object [S0.4.7]"); requires = value.get("requires", [])
    check(type(requires) is list and all(type(r) is str for r in requires), "`requires` is no list of strings")
    check(set(requires) <= set(known), f"requires {requires}", "unsupported"); return value  # [S0.4.6]
def field(obj, key, kind, rule=None):
    check(type(obj) is dict, "not an object"); v = obj.get(key); check(type(v) is kind, f"`{key}` is absent or of another type")
    check(rule is None or re.fullmatch(rule, v), f"`{key}` is malformed"); return v

# --- §1: the one construction, and §4.1 the objects made of it
def message_length(c_length):  # [S1.4]; None: no C is so long
    q, r = divmod(c_length - 56, 16400); return None if c_length < 72 or r < 16 else q * 16384 + r - 16
class C:
    def __init__(self, file, start, size, key, context, suite=1, other_key="tampered"):
        self.file, self.start, self.size, self.length, self.cached = file, start + 56, size - 56, message_length(size), (None, b"")
        check(self.length is not None, "no ciphertext has this length [S1.4]", "truncated"); file.seek(start); salt, stored = file.read(24), file.read(32); name, aead = SUITES[suite]
        okm = expand(key, b"c2sp.org/chunked-encryption@v1+" + name + b"\0" + salt + context, 76)
        check(same(okm[44:], stored), "this key does not open it: commitment differs", other_key)
        self.aead, self.base = aead(okm[:32]), int.from_bytes(okm[32:44], "big"); self.chunk(self.length // 16384)  # the last chunk first [S1.5]
    def chunk(self, i):
        if self.cached[0] != i:
            self.file.seek(self.start + i * 16400); sealed = self.file.read(min(16400, self.size - i * 16400))
            try: self.cached = (i, self.aead.decrypt((self.base ^ i).to_bytes(12, "big"), sealed, None))
            except InvalidTag: raise Refused("tampered", f"chunk {i} does not open")
        return self.cached[1]
    def read(self, offset, n):
        first = offset // 16384; data = b"".join(self.chunk(i) for i in range(first, -(-(offset + n) // 16384))); return data[offset - first * 16384:][:n]
def padme(n):  # [S4.5.1]
    if n < 2: return n
    e = n.bit_length() - 1; mask = (1 << max(e - e.bit_length(), 0)) - 1; return (n + mask) & ~mask
def unseal(sealed, key, context, other_key="tampered"):
    c = C(io.BytesIO(sealed), 0, len(sealed), key, context, other_key=other_key); return c.read(0, c.length)
def open_object(repo, snapshot, role, key, length, sha256=None):
    path = repo / "snapshots" / snapshot / role; check(path.exists(), f"{path} is absent", "truncated"); file = open(path, "rb")
    size = file.seek(0, 2); check(size >= length, f"{path} has {size} bytes, not {length}", "truncated"); check(size == length, f"{path} is too long")
    file.seek(0); check(sha256 is None or hashlib.sha256(file.read()).hexdigest() == sha256, f"{path}: sha256 differs")  # the index only: it fits in memory
    file.seek(0); h = file.read(32)  # [S4.1.2], [S4.1.3]
    check(h[:7] == b"SRDATA\0", f"{path}: no object of ours"); check(h[7] == 1 and h[8] in SUITES and h[9] <= 2, f"{path}: version, suite or role unknown", "unsupported")
    check(h[10:16] == bytes(6) and h[9] == ROLES[role] and h[16:] == ulid(snapshot), f"{path}: header of another object")
    return C(file, 32, size - 32, key, label("object", h), h[8])

# --- §2: master keys
def key_id(master): return hashlib.sha256(label("key-id", b"local\0" + X(master, "key-check"))).hexdigest()[:32]
def open_passphrase(data, lines, passphrase, length=None):  # the lines argon2id and sealed, at the end [S2.4.1]
    a, s = tokens(lines[0], "argon2id", 5), tokens(lines[1], "sealed", 2)
    t, p = number(a[2], 1, 16), number(a[3], 1, 16); m, salt, sealed = number(a[1], 8 * p, 1 << 32), b64(a[4], 16), b64(s[1], length)
    check(m <= MIB, f"argon2id wants {m} KiB, more than 1 GiB [S2.4.2]"); check(passphrase, "there is no passphrase", "wrong-key")
    T = Argon2id(salt=salt, length=32, iterations=t, lanes=p, memory_cost=m).derive(passphrase)
    return unseal(sealed, T, label("passphrase", data[:data.rindex(b"\nsealed ") + 1]), "wrong-key")
def read_keyring(data):  # §2.5 → {key id: (key, state now)}, those that open
    keys, last, primaries, now = {}, "", [], datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    for line in text_lines(data, "keyring", MIB)[1:]:
        t = tokens(line); check(len(t) > 1 and re.fullmatch(HEX32, t[0]) and re.fullmatch(NAME, t[1]) and t[0] > last, "malformed or unsorted keyring line")
        check(t[1] == "local", f"a key of kind {t[1]}", "unsupported"); check(len(t) == 5, "malformed keyring line"); last = t[0]
        check(t[2] in ("staged", "sealing", "primary", "retiring", "retired", "destroyed") and (t[2] == "destroyed") == (t[4] == "-"), "state of a key")
        try: check(datetime.datetime.strptime(t[3], "%Y-%m-%dT%H:%M:%SZ").isoformat() + "Z" == t[3], "time of a key's state")
        except ValueError: raise Refused("tampered", "time of a key's state")
        if t[2] == "primary": primaries.append((t[3], t[0]))
        if t[4] != "-": key = b64(t[4], 32); check(key_id(key) == t[0], f"key {t[0]} has another id [S2.5.4]"); keys[t[0]] = (key, t[2])
    times = sorted(since for since, _ in primaries); check(times and ascending(times), "no key is primary, or two become so at one time [S2.5.3]")
    current = max([since for since in times if since <= now], default=times[0])
    for since, kid in primaries: keys[kid] = (keys[kid][0], "primary" if since == current else "retiring" if since < current else "staged")
    return keys
def bech32(text, prefix):  # §2.6 → the bytes
    digits, low = "qpzry9x8gf2tvdw0s3jn54khce6mua7l", text.lower(); check(text in (low, text.upper()) and low.rsplit("1", 1)[0] == prefix.lower(), f"no {prefix} key")
    data = [digits.find(c) for c in low.rsplit("1", 1)[1]]; check(-1 not in data and len(data) > 6, "no Bech32"); sum_ = 1
    for v in [ord(c) >> 5 for c in prefix.lower()] + [0] + [ord(c) & 31 for c in prefix.lower()] + data:
        top, sum_ = sum_ >> 25, (sum_ & 0x1ffffff) << 5 ^ v
        for i, g in enumerate((0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3)): sum_ ^= g if top >> i & 1 else 0
    bits = "".join(f"{v:05b}" for v in data[:-6]); n = len(bits) // 8; check(sum_ == 1 and len(bits) - 8 * n < 5 and "1" not in bits[8 * n:], "Bech32 checksum or padding")
    return bytes(int(bits[8 * i:8 * i + 8], 2) for i in range(n))
def named(kind, x): return hashlib.sha256(label("key-id", kind.encode() + b"\0" + x)).hexdigest()[:32]  # [S2.3.1]
KEMS = {"AGE-SECRET-KEY-PQ-": (0x647a, hpke.KEM.MLKEM768_X25519, 1120), "AGE-SECRET-KEY-": (0x20, hpke.KEM.X25519, 32)}
def read_identities(text):  # → {key id: (kem, the private key)}, and signers
    found, signers = {}, []
    for line in text.splitlines():
        if line.startswith("# signers:"): signers += re.split("[ ,]+", line[10:].strip())
        if not line or line.startswith("#"): continue
        prefix = line.rsplit("1", 1)[0]; check(prefix in KEMS, "an identity of a kind that is not known", "unsupported"); seed = bech32(line, prefix); check(len(seed) == 32, "identity's length")
        if prefix == "AGE-SECRET-KEY-": private = x25519.X25519PrivateKey.from_private_bytes(seed); public = private.public_key().public_bytes_raw()
        else:
            s = hashlib.shake_256(seed).digest(96); m, x = mlkem.MLKEM768PrivateKey.from_seed_bytes(s[:64]), x25519.X25519PrivateKey.from_private_bytes(s[64:])
            private, public = hpke.MLKEM768X25519PrivateKey(m, x), m.public_key().public_bytes_raw() + x.public_key().public_bytes_raw()
        found[named("hpke", KEMS[prefix][0].to_bytes(2, "big") + public)] = (KEMS[prefix], private)
    return found, "\n".join(signers)
def read_signers(text):  # [S2.6.3] → [(key id, public key, clusters or None, revoked)]
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"): continue
        key, *words = line.split(); words = dict(w.split("=", 1) for w in words); check(set(words) <= {"name", "clusters", "revoked"}, "a word after a signer is not known")
        pk = bech32(key, "srsign"); found.append((named("ed25519", pk), pk, words["clusters"].split(",") if "clusters" in words else None, "revoked" in words))
    return found
def open_hpke(body, identity, context):  # [S5.19]
    (kem, suite, enc), private = identity; check(len(body) >= 6 and body[:6] == kem.to_bytes(2, "big") + b"\0\1\0\2", "algorithms of an hpke stanza", "unsupported")
    check(len(body) == 6 + enc + 48, "length of an hpke stanza"); share = x25519.X25519PublicKey.from_public_bytes(body[6 + enc - 32:6 + enc])
    try: x25519.X25519PrivateKey.from_private_bytes(b"\x09" * 32).exchange(share)
    except ValueError: raise Refused("tampered", "a share of low order [S2.6.2]")
    try: return hpke._decrypt_with_aad(hpke.Suite(suite, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM), body[6:], private, b"strongroom/v1/hpke", context)
    except InvalidTag: raise Refused("tampered", "an hpke stanza does not open")
def take(data):  # a field: its length u16, and its bytes → the field, and what follows
    check(len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"), "a field of a kms stanza is cut"); end = 2 + int.from_bytes(data[:2], "big"); return data[2:end], data[end:]
def pairs(data):  # a number u16, and as many pairs of fields → the pairs, and what follows
    check(len(data) >= 2, "a kms stanza is cut"); found, rest = [], data[2:]
    for _ in range(int.from_bytes(data[:2], "big")): name, rest = take(rest); value, rest = take(rest); found.append((name, value))
    check(ascending([name for name, _ in found]), "pairs of a kms stanza do not ascend"); return found, rest
def pkcs11_opens(key, kid, blob):
    check(blob[:4] == bytes.fromhex("00001087"), "mechanism of a token", "unsupported"); check(len(blob) == 64, "length of what a token made")
    try: return AESGCM(key).decrypt(blob[4:16], blob[16:], b"strongroom/v1/kms\0" + bytes.fromhex(kid))
    except InvalidTag: raise Refused("tampered", "the token does not open it")
def service(spec):  # what a vector says of a service → {its key's id: (number of the provider, W of a blob)} [S5.21]; of a plugin of age [S5.22]
    kind, name, same = spec.get("provider", "kmsv2"), spec["name"].encode(), lambda p: sorted((k.encode(), v.encode()) for k, v in p.items())
    kid, answer = named("age", name) if kind == "age" else named("kms", kind.encode() + b"\0" + name), lambda what, *told: [bytes.fromhex(a["plaintext"]) for a in spec["answers"] if what(a) == told]
    def kmsv2(blob): key, rest = take(blob); ciphertext, rest = take(rest); found, rest = pairs(rest); check(not rest, "a kms stanza goes on"); return answer(lambda a: (a["key_id"].encode(), bytes.fromhex(a["ciphertext"]), same(a["annotations"])), key, ciphertext, found)
    def aws(blob): found, rest = pairs(blob); return answer(lambda a: (same(a["context"]), bytes.fromhex(a["ciphertext"])), found, rest)
    def text(blob): return answer(lambda a: (a["ciphertext"].encode(),), blob)
    number, opens = {"kmsv2": (1, kmsv2), "aws-kms": (2, aws), "transit": (3, text), "pkcs11": (4, lambda blob: [pkcs11_opens(bytes.fromhex(spec["key"]), kid, blob)]), "age": (0, text)}[kind]; return {kid: (number, opens)}
def open_kms(body, service, context):  # [S5.21]
    number, opens = service; check(body[:1] == bytes([number]), "provider of a kms stanza"); blob, sealed = take(body[1:]); check(len(blob) <= 14 * KIB and len(sealed) == 104, "length of a kms stanza")
    key = (opens(blob) + [None])[0]; check(key, "the service does not open it"); check(len(key) == 32, "length of what the service answers"); return unseal(sealed, key, context)
def open_age(body, service, context):  # [S5.22]
    text, sealed = take(body); check(len(text) <= 14 * KIB and len(sealed) == 104, "length of an age stanza"); key = (service[1](text) + [None])[0]; check(key, "the plugin does not open it", "wrong-key")
    check(len(key) == 16, "length of a file key"); return unseal(sealed, expand(hmac.new(bytes(64), key, "sha512").digest(), label("age-file-key", hashlib.sha256(text).digest()), 32), context)
class Keys:  # those that are available: the keyring's, and those under keys/ that the passphrase opens (tried when first asked for)
    def __init__(self, repo, keyring=None, passphrase=None, identity=None, signers=None, kms=None):
        self.kms = service(kms) if kms else {}
        self.identities, more = read_identities(identity.read_text()) if identity else ({}, ""); self.signers = read_signers("\n".join([signers.read_text() if signers else "", more]))
        ring = read_keyring(load(keyring, MIB)) if keyring else {}; self.known, self.repo, self.passphrase, self.failure = {k: key for k, (key, _) in ring.items()}, repo, passphrase, None
        self.states = {k: state for k, (_, state) in ring.items()}
    def worth(self, kid):  # [S5.11]: 0 counts, 1 too, by a key that is being retired, 2 not; who gives a passphrase here means its keys to count
        if kid in self.identities: return 2
        return {"primary": 0, "sealing": 0, "retiring": 1}.get(self.states.get(kid, "sealing"), 2)
    def get(self, kid):
        if kid not in self.known:
            self.known[kid] = None
            for generation in generations(self.repo / "keys", kid) if self.passphrase else []:
                try: self.known[kid] = self.open(kid, generation); break
                except Refused as e: self.failure = self.failure or Refused(e.outcome, f"keys/{kid}.{generation}: {e}")
        return self.known[kid]
    def open(self, kid, generation):  # §2.4
        data = load(self.repo / "keys" / f"{kid}.{generation}", 4096); lines = text_lines(data, "key", 4096)
        check(len(lines) >= 5, "last line is missing", "truncated"); check(len(lines) == 5, "too many lines")
        check(tokens(lines[1], "key", 2)[1] == kid and number(tokens(lines[2], "generation", 2)[1], 1, 2**32 - 1) == generation, "names another key or generation")
        master = open_passphrase(data, lines[3:], self.passphrase, 104); check(len(master) == 32 and key_id(master) == kid, "the key inside has another id"); return master
def generations(folder, name):  # highest first; another name is foreign [S3.1.1]
    found = [f.name[len(name) + 1:] for f in folder.glob(name + ".*")]; return sorted((int(g) for g in found if re.fullmatch(GENERATION, g) and int(g) < 1 << 32), reverse=True)

# --- §5: the seal
def bounded(folder, numbers):  # [S5.12]: → the generations to try, and whether those are all
    size = lambda g: (folder / f"seal.{g}").stat().st_size
    if len(numbers) <= 1000 and sum(map(size, numbers)) <= 64 * MIB: return numbers, True
    half = lambda some: [g for g, total in zip(some[:500], itertools.accumulate(map(size, some[:500]))) if total <= 32 * MIB]
    return half(numbers) + half(numbers[::-1]), False
def open_seal(repo, snapshot, keys, manifest):  # → the DEK, what it is worth [S5.6]; manifest: (SHA-256, DC, must it be signed)
    failures, ids, named, best, signed = [], set(), [False], None, False; all_of_them = generations(repo / "snapshots" / snapshot, "seal")
    to_try, complete = bounded(repo / "snapshots" / snapshot, all_of_them)
    for g in to_try:
        try:
            seal = load(repo / "snapshots" / snapshot / f"seal.{g}", 1540 * KIB); dek, worth, signatures = open_generation(seal, snapshot, g, keys, manifest, ids, named)
            best, signed = min([b for b in (best, (worth, dek)) if b], key=lambda b: b[0]), signed or signatures
            if best[0] == 0 and (signed or not manifest[2]): break
        except Refused as e: failures.append(Refused(e.outcome, f"seal.{g}: {e}"))
    else: check(complete, "more than 1,000 seals, or 64 MiB of them: whether it counts is unknown [S5.12]")
    if best: check(signed or not manifest[2], "no seal carries the signature that it requires [S5.17]"); return best[::-1]
    check(failures, f"{snapshot} has no seal", "truncated"); outcomes = {e.outcome for e in failures}
    if len(outcomes) == 1 and outcomes != {"wrong-key"}: raise failures[0]
    if named[0] or "wrong-key" not in outcomes: raise Refused("tampered", "; ".join(map(str, failures)))
    raise keys.failure or Refused("wrong-key", "one of these keys would open it: " + ", ".join(sorted(ids)))
SUBJECTS = {"snapshot": (1, ULID), "values": (2, UUID), "report": (3, ULID), "audit": (4, ULID), "journal": (5, ULID)}
def parse_seal(data):  # → (subject kind, its name, generation, object, DC, stanzas, MAC, what the MAC covers, signers) [S5.1..4, S5.9]
    lines = text_lines(data, "seal", 1540 * KIB); at = 5
    while at < len(lines) and lines[at].startswith("-> "): at += 1
    stanzas, signers = [tokens(l, "->") for l in lines[5:at]], []
    while at < len(lines) and not lines[at].startswith("--- "):
        t = tokens(lines[at]); check(not re.fullmatch(NAME, t[0]) or t[0] == "ed25519", f"signature {t[0]}", "unsupported")
        check(t[0] == "ed25519" and len(t) == 3 and re.fullmatch(HEX32, t[1]) and b64(t[2], 64), "malformed signature"); signers.append((t[1], b64(t[2], 64))); at += 1
    check(at < len(lines), "no line `---`", "truncated"); check(at == len(lines) - 1, "lines after the MAC"); kind, who = tokens(lines[1], "subject", 3)[1:]
    check(not re.fullmatch(NAME, kind) or kind in SUBJECTS, f"subject {kind}", "unsupported"); check(kind in SUBJECTS and re.fullmatch(SUBJECTS[kind][1], who), "malformed subject")
    obj = tokens(lines[3], "object", 2)[1]; check(re.fullmatch(HEX64, obj), "malformed object"); generation = number(tokens(lines[2], "generation", 2)[1], 1, 2**32 - 1)
    dc, mac = b64(tokens(lines[4], "commitment", 2)[1], 32), b64(tokens(lines[at], "---", 2)[1], 32)
    check(1 <= len(stanzas) <= 64 and max(map(len, lines[5:5 + len(stanzas)])) < 24 * KIB, "number or length of stanzas [S5.3]")
    check(all(len(s) > 3 and re.fullmatch(NAME, s[1]) and re.fullmatch(HEX32, s[2]) and b64(s[-1]) is not None for s in stanzas), "malformed stanza")
    check(ascending([s[1:3] for s in stanzas]), "stanzas do not ascend"); check(all(len(s) == 4 and b64(s[3], 104) for s in stanzas if s[1] == "local"), "malformed local stanza")
    check(len(signers) <= 16 and ascending([s for s, _ in signers]), "too many signatures, or they do not ascend"); return kind, who, generation, obj, dc, stanzas, mac, data[:data.rindex(b"\n---") + 4], signers
def subject_of(seal): tag, rule = SUBJECTS[seal[0]]; return bytes([tag]) + (ulid(seal[1]) if rule == ULID else bytes.fromhex(seal[1].replace("-", "")))
def is_signed(seal, keys, cluster):  # by a signer that is trusted for this cluster [S5.11]
    found = False
    for kid, signature in seal[8]:
        for _, pk, clusters, revoked in [s for s in keys.signers if s[0] == kid]:
            try: ed25519.Ed25519PublicKey.from_public_bytes(pk).verify(signature, label("vouch", subject_of(seal) + bytes.fromhex(seal[3])))
            except InvalidSignature: raise Refused("tampered", f"the signature of {kid} does not verify")
            found = found or not revoked and (clusters is None or cluster in clusters)
    return found
def open_stanzas(seal, keys, ids=None, named=None):  # → the DEK and its key, by a stanza whose key counts if there is one
    _, _, _, obj, dc, stanzas, mac, signed, _ = seal; subject, failure = subject_of(seal), None
    for _, stanza, kid, *args in sorted(stanzas, key=lambda s: keys.worth(s[2])):
        if ids is not None: ids.add(kid)
        master = keys.identities.get(kid) if stanza == "hpke" else keys.get(kid) if stanza == "local" else keys.kms.get(kid) if stanza in ("kms", "age") else None
        if not master: continue
        try:
            if named: named[0] = True
            context = label("data-key", subject + dc + bytes.fromhex(obj) + bytes.fromhex(kid) + stanza.encode()); check(len(args) == 1, "a stanza's further tokens")
            dek = {"hpke": open_hpke, "kms": open_kms, "age": open_age}.get(stanza, unseal)(b64(args[0]), master, context); check(len(dek) == 32, "data key's length")
            check(same(X(dek, "data-key-commitment", subject), dc), "DC differs"); check(same(hmac.new(X(dek, "seal-mac"), signed, "sha256").digest(), mac), "HMAC differs"); return dek, kid
        except Refused as e: failure = failure or e
    raise failure or Refused("wrong-key", "no stanza for a key that is available")
def open_generation(data, snapshot, generation, keys, manifest, ids, named):
    seal = parse_seal(data); check(seal[:2] == ("snapshot", snapshot) and seal[2] == generation, "seal of another snapshot or generation")
    check(seal[3] == manifest[0] and same(seal[4], manifest[1]), "it vouches for another manifest [S5.6]"); vouched = is_signed(seal, keys, manifest[3])
    check(vouched or not keys.signers, "no trusted signer has signed it [S5.11]", "wrong-key"); dek, kid = open_stanzas(seal, keys, ids, named); return dek, 0 if vouched else keys.worth(kid), bool(seal[8])

# --- §7: a report
def open_report(repo, report, keys, origin):  # → (line 2, details, what it is worth)
    data = load(repo / "reports" / report, 4 * MIB); lines = data.split(b"\n", 2); check(len(lines) == 3, "a report is cut", "truncated")
    text_lines(lines[0] + b"\n", "report", 64); signed, head = data[:len(data) - len(lines[2])], parse_json(lines[1]); seal = parse_seal(b"strongroom-seal/1\n" + lines[2])
    check(seal[:3] == ("report", report, 1) and field(head, "report", str) == report and seal[3] == hashlib.sha256(signed).hexdigest(), "a report's seal or name [S7.1]")
    check(field(head, "origin", str, UUID) == origin and field(head, "kind", str, NAME) and ("level" not in head or field(head, "level", str, NAME)) and ("key" not in head or field(head, "key", str, "[0-9a-f]{32}")), "a report's head [S7.2]")
    check(head.get("scope") in ("one", "cluster", "repository") and head.get("outcome") in ("passed", "failed", "findings"), "scope or outcome [S7.2]")
    check(b64(field(head, "commitment", str), 32) == seal[4] and field(head, "tool", str, "[ -~]{1,128}"), "commitment or tool [S7.2]"); vouched = is_signed(seal, keys, head.get("cluster")); dek, kid = open_stanzas(seal, keys)
    raw = unseal(b64(field(head, "details", str)), X(dek, "report-key"), label("report", ulid(report))); check(len(raw) % 256 == 0 and len(raw) <= MIB, "details' padding [S7.3]")
    return head, parse_json(raw), 0 if vouched else 2 if keys.signers else keys.worth(kid)

# --- §13: a change journal
def mac_text(data, kind, limit, dek=None):  # three lines [S13.10] -> JSON; with a DEK the MAC is checked
    lines = text_lines(data, kind, limit); check(len(lines) >= 3, f"a {kind} is cut", "truncated"); check(len(lines) == 3, f"lines after the MAC of a {kind}")
    mac, signed = b64(tokens(lines[2], "hmac-sha256", 2)[1], 32), data[:len(lines[0]) + len(lines[1]) + 2]
    check(dek is None or same(hmac.new(X(dek, "manifest-mac"), signed, "sha256").digest(), mac), f"HMAC of a {kind}"); return parse_json(lines[1].encode())
def open_segment(path, journal, n, key):  # -> the body [S13.9]
    data = load(path, 80 * MIB); h = data[:32]; check(h[:8] == b"SRDATA\0\1" and h[8] in SUITES and h[9] == 3 and h[10:16] == n.to_bytes(6, "big") and h[16:] == ulid(journal), f"{path}: header of another object")
    c = C(io.BytesIO(data), 32, len(data) - 32, key, label("object", h), h[8]); message = c.read(0, c.length); size = zstandard.get_frame_parameters(message).content_size
    check(size <= 64 * MIB, "a body of more than 64 MiB"); o = zstandard.ZstdDecompressor().decompressobj(); body = o.decompress(message); check(o.eof and len(body) == size, "zstd frame")
    used = len(message) - len(o.unused_data); check(len(message) == padme(max(used, 4096)) and not any(o.unused_data), "a segment's padding [S13.9]"); return body
def open_bundle(path, journal, key):  # -> the bodies [S13.9]
    data = load(path, 1024 * MIB); h = data[:32]; check(h[:8] == b"SRDATA\0\1" and h[8] in SUITES and h[9] == 4 and h[10:16] == bytes(6) and h[16:] == ulid(journal), f"{path}: header of another object")
    c = C(io.BytesIO(data), 32, len(data) - 32, key, label("object", h), h[8]); message, at, bodies = c.read(0, c.length), 0, []; number = lambda b: int.from_bytes(b, "big")
    while at + 4 <= len(message) and (length := number(message[at:at + 4])):
        frame = message[at + 4:at + 4 + length]; check(len(frame) == length <= 80 * MIB, "a frame of a bundle is cut"); at += 4 + length; size = zstandard.get_frame_parameters(frame).content_size
        check(size <= 64 * MIB + 4, "a frame of more than 64 MiB"); o = zstandard.ZstdDecompressor().decompressobj(); inside = o.decompress(frame); check(o.eof and len(inside) == size > 0 and not o.unused_data, "zstd frame"); p = 0
        while p < size: body = inside[p + 4:p + 4 + number(inside[p:p + 4])]; check(len(body) == number(inside[p:p + 4]), "a body is cut"); bodies.append(body); p += 4 + len(body)
    check(len(message) == padme(max(at, 4096)) and not any(message[at:]), "a bundle's padding [S13.9]"); return bodies
def stored_bodies(folder, journal, key, end, number):  # -> each body, with the digest of its segment's object and its length
    if end and "bundle" in end:  # [S13.15]
        b = field(end, "bundle", dict); path = folder / f"bundle.{number}"; data = load(path, 1024 * MIB); check((hashlib.sha256(data).hexdigest(), len(data)) == (b["sha256"], b["length"]), "a bundle that the end does not name")
        bodies = open_bundle(path, journal, key); check(len(bodies) == end["segments"] > 0, "a bundle of another number of segments")
        yield from zip(bodies, [x[8:40] for x in bodies[1:]] + [bytes.fromhex(field(b, "replaces", str, HEX64))], [None] * len(bodies)); return
    n = 0
    while (found := sorted(folder.glob(f"segment.{n + 1}.*"))) and (end is None or n < end["segments"]):
        n += 1; data = found[0].read_bytes(); yield open_segment(found[0], journal, n, key), hashlib.sha256(data).digest(), len(data)
def varint(data, at):
    n = shift = 0
    while True:
        n |= (data[at] & 127) << shift; shift += 7; at += 1
        if data[at - 1] < 128: return n, at
def key_value(data):  # mvccpb.KeyValue -> {field: value}
    fields, at = {}, 0
    while at < len(data):
        tag, at = varint(data, at); n, at = varint(data, at); check(tag & 7 in (0, 2), "a record's value")
        if tag & 7 == 2: n, at = data[at:at + n], at + n
        fields[tag >> 3] = n
    return fields
def open_journal(repo, journal, keys, origin):  # -> (records as bucket key and value, last complete revision)
    folder = repo / "journals" / journal; data = load(folder / "head", 64 * KIB); head = mac_text(data, "journal", 64 * KIB)
    check(field(head, "journal", str, ULID) == journal and field(head, "origin", str, UUID) == origin, "a head of another journal or repository"); first = field(head, "first", int); check(first >= 2, "`first`")
    objects = {hashlib.sha256(data).hexdigest(): None}; dc = b64(field(head, "commitment", str), 32)
    for g in generations(folder, "end"): e = load(folder / f"end.{g}", MIB); objects[hashlib.sha256(e).hexdigest()] = e, g
    best, failure = None, None
    for g in generations(folder, "seal"):
        try:
            seal = parse_seal(load(folder / f"seal.{g}", 1540 * KIB)); check(seal[:3] == ("journal", journal, g) and seal[3] in objects and same(seal[4], dc), "it vouches for something else")
            dek, kid = open_stanzas(seal, keys)
            if keys.worth(kid) < 2 and (best is None or best[1] is None and objects[seal[3]]): best = dek, objects[seal[3]]
        except Refused as e: failure = failure or e
    if not best: raise failure or Refused("truncated", "a journal without a seal that counts")
    dek, end = best; mac_text(data, "journal", 64 * KIB, dek); end, named = (mac_text(end[0], "journal-end", MIB, dek), end[1]) if end else (None, 0)
    facts = parse_json(unseal(b64(field(head, "facts", str)), X(dek, "facts-key"), label("facts", ulid(journal)))); field(facts, "interval_ms", int)
    records, previous, at, last, moment, n = [], bytes(32), None, first - 1, 0, 0; key = X(dek, "journal-key")
    for body, sha256, length_of in stored_bodies(folder, journal, key, end, named):
        n += 1; number = lambda b: int.from_bytes(b, "big"); closing, own = 0, []
        check(number(body[:8]) == n and body[8:40] == previous and len(body) >= 72, "a segment that does not follow [S13.3]"); p = 72
        while p < len(body):
            kind, length = body[p], number(body[p + 1:p + 5]); value = body[p + 5:p + 5 + length]; check(len(value) == length, "an entry is cut"); p += 5 + length
            if kind >= 128: continue
            check(1 <= kind <= 10 and kind != 9, f"an entry of type {kind}", "unsupported"); check(kind > closing if closing else True, "an entry behind the last [S13.13]"); closing = kind if kind >= 8 else 0
            if kind == 1: check(length == 8 and number(value) >= moment, "a moment [S13.13]"); moment = number(value)
            if kind in (2, 3):  # [S13.1], [S13.2]
                kv = key_value(value) if kind == 2 else {1: value[8:]}; main = kv.get(3, 0) if kind == 2 else number(value[:8]); check(kv.get(1), "a record without a key")
                check(kind == 3 or 1 <= kv.get(2, 0) <= main and kv.get(4, 0) >= 1, "a record contradicts itself"); sub = at[1] + 1 if at and at[0] == main else 0
                check(main == first if at is None else main in (at[0], at[0] + 1), f"revision {main} does not follow"); at = (main, sub); own.append(at)
                size = len(kv[1]); tag = bytes([10]) + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7]))  # keys of at most 16 KiB here
                records.append((main, main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big") + b"t" * (kind == 3), value if kind == 2 else tag + kv[1]))
        start = (number(body[40:48]), number(body[48:56])); check(not own or own[0] == start, "first record [S13.1]"); now = number(body[56:64])
        check(last <= now <= (at[0] if at else first - 1), "`last` [S13.1]"); last, previous = now, sha256
        check(length_of is None or end is None or (end["objects"][n - 1]["sha256"], end["objects"][n - 1]["length"]) == (previous.hex(), length_of), "a segment that the end does not name")
    check(end is None or (n, last) == (end["segments"], end["last"]), "segments are missing", "truncated"); return [(k, v) for main, k, v in records if main <= last], last
def records_digest(records):  # of vectors: each record as two lengths of 4 bytes and its bytes
    h = hashlib.sha256()
    for part in (x for record in records for x in record): h.update(len(part).to_bytes(4, "big") + part)
    return h.hexdigest()

# --- §6: the manifest, and the whole snapshot
def parse_manifest(data, snapshot, origin):  # → (JSON, bytes under the MAC, MAC)
    lines = text_lines(data, "manifest", MIB); check(len(lines) >= 3, "manifest is cut", "truncated"); m = parse_json(lines[1].encode(), ("signed",))
    mac = b64(tokens(lines[2], "hmac-sha256", 2)[1], 32); check(len(lines) == 3, "lines after the MAC")
    for key, rule in (("origin", UUID), ("snapshot", ULID), ("cluster", "[a-z0-9][a-z0-9._-]{0,63}"), ("tool", "[ -~]{1,128}")): field(m, key, str, rule)
    field(m, "revision", int); field(m, "database_bytes", int); check(m["snapshot"] == snapshot, "manifest of another snapshot")
    check(m["origin"] == origin, f"made in repository {m['origin']}; if you trust that, name it with --origin"); roles = []
    for o in field(m, "objects", list):
        roles.append(field(o, "role", str, NAME)); field(o, "length", int); field(o, "sha256", str, HEX64)
        check(roles[-1] not in ("payload", "index", "companions") or message_length(o["length"] - 32) is not None, "length of an object [S4.1.1]")
    check(roles[:2] == ["payload", "index"] and ascending(roles[2:]), "objects out of order [S6.3]")
    check(not {"payload", "index", "manifest", "tombstone", "seal", "sweep", "keep"} & set(roles[2:]), "a reserved or repeated role")
    if "replaces" in m: check(field(m, "replaces", str, ULID) != snapshot and ulid_ms(m["replaces"]) == ulid_ms(snapshot), "`replaces`")
    if "previous" in m: check(field(field(m, "previous", dict), "snapshot", str, ULID) != snapshot and field(m["previous"], "sha256", str, HEX64), "`previous`")
    for key, most, longest in (("tags", 32, 64), ("included", 256, 1024)):  # [S6.4.2], [S6.4.3]
        texts = field(m, key, list) if key in m else []; check(len(texts) <= most and all(type(t) is str and re.fullmatch("[ -~]{1,%d}" % longest, t) for t in texts), f"`{key}`")
        check(key != "tags" or ascending(texts), "tags do not ascend")
    m["commitment"], m["facts"] = b64(field(m, "commitment", str), 32), b64(field(m, "facts", str)); return m, data[:len(lines[0]) + len(lines[1]) + 2], mac
def inflate_index(data):  # one zstd frame, at most 64 MiB [§4.3]: looked at with a limit first, then opened; then zeros [S4.5.3]
    check(data[:4] == b"\x28\xb5\x2f\xfd", "index is no zstd frame"); z = zstandard.ZstdDecompressor()
    with z.stream_reader(data) as f: check(len(f.read(64 * MIB + 1)) <= 64 * MIB, "index is more than 64 MiB")
    o = z.decompressobj(); out = o.decompress(data); rest = o.unused_data; check(o.eof, "index: zstd frame is cut")
    check(len(data) % 4096 == 0 and len(rest) < 4096 and not any(rest), "index: padding [S4.5.3]"); return out
def check_index(ix, m):  # [S4.3.1..6], [S4.5.2] → (size, frame_size, sha256, frames as (offset, length, sha256))
    db, table = field(ix, "database", dict), field(ix, "frames", list); size, fs, sha = field(db, "size", int), field(db, "frame_size", int), field(db, "sha256", str, HEX64)
    check(1 << 16 <= fs <= 1 << 24 and fs & (fs - 1) == 0, "frame_size"); check(1 <= size <= 1 << 40 and len(table) == -(-size // fs), "number of frames")
    longest = fs + fs // 256 + ((2**17 - fs) // 2**11 if fs < 2**17 else 0); offset, frames = 0, []  # [S4.3.4]
    for f in table:
        check(type(f) is list and [type(x) for x in f] == [int, str], "malformed frame"); length, digest = f[0], b64(f[1], 32); check(1 <= length <= longest, "length of a frame")
        frames.append((offset, length, digest)); offset += length
    check(message_length(m["objects"][0]["length"] - 32) == padme(offset), "the payload's length is not that of its frames, padded"); return size, fs, sha, frames
def inflate_frame(data, length):  # [S4.2.2], [S4.2.4]
    p = zstandard.get_frame_parameters(data); good = data[:4] == b"\x28\xb5\x2f\xfd" and (p.content_size, p.dict_id) == (length, 0) and p.window_size <= 8 * MIB
    check(good, "zstd frame's header"); out = zstandard.ZstdDecompressor().decompress(data, max_output_size=length, allow_extra_data=False); check(len(out) == length, "frame's length"); return out
def repository_id(repo):  # §3.2
    data = load(repo / "repository.json", 4096); check(len(data) <= 4096 and re.fullmatch(rb"[\x20-\x7e]*\n?", data), "repository.json is no line of text")
    check(data.endswith(b"\n"), "repository.json without its LF", "truncated"); r = parse_json(data); check(field(r, "format", int) == 1, "repository.json: format", "unsupported")
    check((rid := field(r, "id", str, UUID))[14] == "4" and rid[19] in "89ab", "repository.json: not a random UUID"); return rid
def latest(repo, keys, origin):  # [S3.3.5]: the newest that counts, one that is ahead only if no other does. A tombstone beside a manifest hides nothing [S3.3.6]
    ids = [f.parent.name for f in (repo / "snapshots").glob("*/manifest") if re.fullmatch(ULID, f.parent.name)]; check(ids, "there is no snapshot", "truncated")
    for snapshot in sorted(ids, key=lambda i: (ulid_ms(i) / 1000 <= time.time() + 300, i), reverse=True):
        try:
            data = load(repo / "snapshots" / snapshot / "manifest", MIB); m, _, _ = parse_manifest(data, snapshot, origin or repository_id(repo))
            if open_seal(repo, snapshot, keys, seal_facts(data, m))[1] < 2: return snapshot
        except (Refused, UnicodeError, json.JSONDecodeError) as e: print(f"{snapshot} is passed over: {e}", file=sys.stderr)
    raise Refused("wrong-key", "no snapshot counts for these keys")
def seal_facts(data, m): return hashlib.sha256(data).hexdigest(), m["commitment"], "signed" in m.get("requires", []), m["cluster"]
def open_snapshot(repo, snapshot, keys, origin, out):  # §6.6 → (sha256 hex, revision)
    data = load(repo / "snapshots" / snapshot / "manifest", MIB); m, signed, mac = parse_manifest(data, snapshot, origin or repository_id(repo))  # 1
    dek, worth = open_seal(repo, snapshot, keys, seal_facts(data, m))  # 2, 3
    if worth == 2: print(f"{snapshot} is not trusted: no signature, and no key that counts, shows who made it [S5.11]", file=sys.stderr)
    check(same(hmac.new(X(dek, "manifest-mac"), signed, "sha256").digest(), mac), "the manifest's HMAC differs")  # 4
    own, ix = m["objects"][:2]; index = open_object(repo, snapshot, "index", X(dek, "index-key"), ix["length"], ix["sha256"])  # 5
    size, fs, sha, frames = check_index(parse_json(inflate_index(index.read(0, index.length))), m)
    check(size == m["database_bytes"], "manifest and index disagree")  # 7
    check((message_length(len(m["facts"])) or 0) <= 64 * KIB, "facts of more than 64 KiB"); context = label("facts", ulid(snapshot))
    raw = unseal(m["facts"], X(dek, "facts-key"), context); facts = parse_json(raw); check(len(raw) % 256 == 0, "facts' padding"); etcd = field(facts, "etcd", dict)  # §6.5
    for key in ("revision", "compact_revision", "raft_term", "raft_index"): field(etcd, key, int)
    check(etcd["revision"] == m["revision"] and field(field(facts, "database", dict), "size", int) == size, "facts and manifest disagree")
    if (j := facts.get("journal")) is not None:  # [S6.5.4]
        check(field(j, "number", int) >= 1 and re.fullmatch("[0-9a-f]{64}", field(j, "sha256", str)) and ulid(field(j, "id", str)) and field(j, "last", int) >= 0, "the facts' journal")
        check(("equal_from" in j) == ("equal_to" in j) and j.get("equal_from", 0) <= j.get("equal_to", 0), "the facts' journal: no range")
    payload, h = open_object(repo, snapshot, "payload", X(dek, "payload-key"), own["length"]), hashlib.sha256()  # 8
    end = frames[-1][0] + frames[-1][1]; check(not any(payload.read(end, payload.length - end)), "the payload's padding is not zeros [S4.5.4]")
    for i, (offset, length, digest) in enumerate(frames):
        stored = payload.read(offset, length); check(hashlib.sha256(stored).digest() == digest, f"frame {i}: its SHA-256 differs [S4.2.3]")
        piece = inflate_frame(stored, min(fs, size - i * fs)); h.update(piece); out.write(piece)
    check(h.hexdigest() == sha, "the database's SHA-256 differs"); out.write(h.digest()); return sha, m["revision"]
def attempt(repo, snapshot, keyring, passphrase, identity, signers, origin, out, kms=None):  # → (class, sha256, what to print)
    try:
        keys = Keys(repo, keyring, passphrase, identity, signers, kms); snapshot = latest(repo, keys, origin) if snapshot == "latest" else snapshot
        sha, revision = open_snapshot(repo, snapshot, keys, origin, out); return "ok", sha, f"ok {sha} {revision}"
    except Refused as e: return e.outcome, None, str(e)
    except (json.JSONDecodeError, UnicodeError, zstandard.ZstdError) as e: return "tampered", None, f"tampered: {e}"
def run_vectors(folder):
    passed = failed = 0
    for case in sorted(p for p in folder.glob("*.json") if p.with_suffix("").is_dir()):
        v = json.loads(case.read_text("utf-8")); file, passphrase = lambda name: folder / v[name] if name in v else None, v.get("passphrase")
        try: got, sha, why = attempt(case.with_suffix(""), v["snapshot"], file("keyring"), passphrase and passphrase.encode(), file("identity"), file("signers"), None, io.BytesIO(), v.get("kms"))
        except Exception as e: got, sha, why = "crash", None, f"crash: {e!r}"
        for name, wanted in v.get("journals", {}).items():  # §13
            try: records, last = open_journal(case.with_suffix(""), name, Keys(case.with_suffix(""), file("keyring")), repository_id(case.with_suffix(""))); found = {"last": last, "records": records_digest(records)}
            except Exception as e: found = repr(e)
            if found != wanted: got, why = "journal", f"journal {name}: {found}"
        if (got == v["class"] or (got, v["class"]) == ("tampered", "truncated")) and (got != "ok" or sha == v["sha256"]): passed += 1
        else: failed += 1; print(f"{case.stem}: expected {v['class']} {v.get('sha256', '')}, got {why}")
    print(f"{passed} passed, {failed} failed"); return 0 if passed and not failed else 1
def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in (("repository", pathlib.Path), ("snapshot", str)): a.add_argument(name, nargs="?", type=kind)
    for option in ("--keyring", "--passphrase-file", "--identity", "--signers", "--vectors", "-o"): a.add_argument(option, type=pathlib.Path)
    a.add_argument("--origin", help="accept a snapshot made in this repository"); o = a.parse_args()
    if o.vectors: return run_vectors(o.vectors)
    if not (o.keyring or o.passphrase_file or o.identity) or not re.fullmatch(ULID + "|latest", o.snapshot or ""): a.error("give REPOSITORY SNAPSHOT and a key")
    passphrase = re.sub(rb"\r?\n\Z", b"", o.passphrase_file.read_bytes()) if o.passphrase_file else None  # [S2.4.3]
    part = o.o.with_name(o.o.name + ".part") if o.o else pathlib.Path(os.devnull)
    with open(part, "wb") as out: outcome, _, text = attempt(o.repository, o.snapshot, o.keyring, passphrase, o.identity, o.signers, o.origin, out)
    if o.o: os.replace(part, o.o) if outcome == "ok" else part.unlink()
    print(text); return 0 if outcome == "ok" else 1
if __name__ == "__main__": sys.exit(main())
