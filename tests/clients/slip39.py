#!/usr/bin/env python3
"""SLIP-39's reference implementation: shares on standard input, one a line, to
the secret in hex (combine), or a secret in hex to shares (split HEX T N)."""
import sys

from shamir_mnemonic import combine_mnemonics, generate_mnemonics

if sys.argv[1] == "combine":
    print(combine_mnemonics([line.strip() for line in sys.stdin if line.strip()]).hex())
else:
    secret, threshold, count = bytes.fromhex(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    print("\n".join(generate_mnemonics(1, [(threshold, count)], secret)[0]))
