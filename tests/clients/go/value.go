package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// A reader and writer of single values, as section 10 of src/format/SPEC.md specifies. In brackets: its rules.
// XAES-256-GCM is written out here: the standard library has it only inside.

// keyring is a namespace with its value keys, and the phases of prefixes [S10.2.7].
type keyring struct {
	namespace []byte
	Keys      []struct{ ID, State, Key string }
	Migrate   []struct{ Prefix, Phase string }
}

func b64(text string) []byte   { return must(base64.RawStdEncoding.DecodeString(text)) }
func unhex(text string) []byte { return must(hex.DecodeString(strings.ReplaceAll(text, "-", ""))) }

func label(name string, parts ...[]byte) []byte { // [S0.1.3]
	return append([]byte("strongroom/v1/"+name+"\x00"), bytes.Join(parts, nil)...)
}

func expand(key, info []byte, n int) []byte { // [S0.1.2]
	return must(hkdf.Expand(sha512.New, key, string(info), n))
}

func equal(mac, wanted []byte) {
	if !hmac.Equal(mac, wanted) {
		check(errors.New("the key or the record is wrong"))
	}
}

// unseal opens the one construction, C: chunks of 16 KiB [S1].
func unseal(sealed, key, context []byte) (message []byte) {
	name := []byte("c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00")
	okm := expand(key, slices.Concat(name, sealed[:24], context), 76)
	equal(okm[44:], sealed[24:56])
	aead := must(cipher.NewGCM(must(aes.NewCipher(okm[:32]))))
	for i, at := uint64(0), 56; at < len(sealed); i, at = i+1, at+16400 {
		nonce := bytes.Clone(okm[32:44])
		binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^i)
		message = must(aead.Open(message, nonce, sealed[at:min(at+16400, len(sealed))], nil))
	}
	return message
}

// readRecord opens the record `<prefix>keyring` with the keys of a keyring file [S10.2, S5.6].
func readRecord(record, masters []byte) (found keyring) {
	var lines [][]string
	for line := range strings.Lines(string(record)) {
		lines = append(lines, strings.Fields(line))
	}
	stanzas, mac, sealed := lines[5:len(lines)-2], lines[len(lines)-2][1], lines[len(lines)-1][1]
	namespace, object, commitment := unhex(lines[1][2]), unhex(lines[3][1]), b64(lines[4][1])
	digest := sha256.Sum256(record[bytes.LastIndex(record, []byte("\nkeyring "))+1:])
	equal(digest[:], object) // [S5.10]
	serial := must(strconv.ParseUint(lines[2][1], 10, 64))
	for line := range strings.Lines(string(masters)) {
		master := strings.Fields(line)
		at := slices.IndexFunc(stanzas, func(one []string) bool { return one[1] == "local" && one[2] == master[0] })
		if at < 0 || master[2] == "destroyed" {
			continue
		}
		context := label("data-key", []byte{2}, namespace, commitment, object, unhex(master[0]), []byte("local"))
		key := unseal(b64(stanzas[at][3]), b64(master[4]), context)
		hash := hmac.New(sha256.New, expand(key, label("seal-mac"), 32))
		hash.Write(record[:bytes.LastIndex(record, []byte("\n---"))+4])
		equal(hash.Sum(nil), b64(mac))
		equal(expand(key, label("data-key-commitment", []byte{2}, namespace), 32), commitment)
		context = label("value-keyring", namespace, binary.BigEndian.AppendUint64(nil, serial))
		check(json.Unmarshal(unseal(b64(sealed), expand(key, label("value-keyring-key"), 32), context), &found))
		found.namespace = namespace
		return found
	}
	check(errors.New("no key of the keyring opens the record"))
	return found
}

// xaes is C2SP's XAES-256-GCM: a key from the nonce's first half, by CMAC, for its second half [S10.1.1].
func xaes(secret string, nonce []byte) cipher.AEAD {
	block, mask, key := must(aes.NewCipher(expand(b64(secret), label("value-key", []byte{1}), 32))), make([]byte, 16), make([]byte, 32)
	block.Encrypt(mask, mask)
	high, low := binary.BigEndian.Uint64(mask), binary.BigEndian.Uint64(mask[8:])
	binary.BigEndian.PutUint64(mask, high<<1|low>>63)
	binary.BigEndian.PutUint64(mask[8:], low<<1^high>>63*0x87)
	for half := range 2 {
		input := append([]byte{0, byte(half + 1), 'X', 0}, nonce[:12]...)
		subtle.XORBytes(input, input, mask)
		block.Encrypt(key[16*half:], input)
	}
	return must(cipher.NewGCM(must(aes.NewCipher(key))))
}

// phase of a key's values: `done` where none is listed.
func (k keyring) phase(key []byte) string {
	for _, one := range k.Migrate {
		if bytes.HasPrefix(key, b64(one.Prefix)) {
			return one.Phase
		}
	}
	return "done"
}

// seal encrypts a value [S10.1].
func (k keyring) seal(key, value []byte) []byte {
	if !slices.Contains([]string{"done", "encrypt", "admit-back"}, k.phase(key)) {
		check(errors.New("values of this prefix are not encrypted now [S10.2.7]"))
	}
	for _, one := range k.Keys {
		if one.State == "primary" {
			header, nonce := append([]byte("\x00SR\x01"), unhex(one.ID)...), make([]byte, 24)
			must(rand.Read(nonce))
			sealed := slices.Concat(header, nonce)
			return xaes(one.Key, nonce).Seal(sealed, nonce[12:], value, label("value", header, k.namespace, key))
		}
	}
	return nil
}

// open gives the value and "ok", or the outcome as [S10.1.4, S10.1.5] name it.
func (k keyring) open(key, sealed []byte) ([]byte, string) {
	phase, encrypted := k.phase(key), bytes.HasPrefix(sealed, []byte("\x00SR"))
	switch {
	case !encrypted && phase != "done":
		return sealed, "ok"
	case !encrypted || phase == "off":
		return nil, "tampered"
	case len(sealed) < 48:
		return nil, "truncated"
	case sealed[3] != 1: // 2 is XChaCha20-Poly1305, which no writer chooses by itself
		return nil, "unsupported"
	}
	for _, one := range k.Keys {
		if bytes.Equal(unhex(one.ID), sealed[4:8]) && one.State != "disabled" && one.State != "destroyed" {
			context := label("value", sealed[:8], k.namespace, key)
			value, err := xaes(one.Key, sealed[8:32]).Open(nil, sealed[20:32], sealed[32:], context)
			if err != nil {
				return nil, "tampered"
			}
			return value, "ok"
		}
	}
	return nil, "wrong-key"
}
