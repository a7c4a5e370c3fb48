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
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A reader and writer of single values, from section 10 of src/format/SPEC.md. In brackets: the rules there.

func b64(text string) []byte { return must(base64.RawStdEncoding.DecodeString(text)) }

func label(name string, parts ...[]byte) []byte { // [S0.1.3]
	return append([]byte("strongroom/v1/"+name+"\x00"), bytes.Join(parts, nil)...)
}

func expand(key, info []byte, n int) []byte {
	return must(hkdf.Expand(sha512.New, key, string(info), n))
}

func gcm(key []byte) cipher.AEAD { return must(cipher.NewGCM(must(aes.NewCipher(key)))) }

// unseal opens the one construction, C [S1]: chunks under a key that the commitment names.
func unseal(sealed, key, context []byte) []byte {
	salt, commitment, rest := sealed[:24], sealed[24:56], sealed[56:]
	okm := expand(key, append(append([]byte("c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"), salt...), context...), 76)
	if !hmac.Equal(okm[44:], commitment) {
		check(fmt.Errorf("this key does not open it"))
	}
	message := []byte{}
	for i := 0; len(rest) > 0; i++ {
		nonce, size := bytes.Clone(okm[32:44]), min(16400, len(rest))
		binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^uint64(i))
		message = append(message, must(gcm(okm[:32]).Open(nil, nonce, rest[:size], nil))...)
		rest = rest[size:]
	}
	return message
}

type valueKey struct{ ID, State, Key string }

type values10 struct {
	namespace []byte
	Keys      []valueKey
	Migrate   []struct{ Prefix, Phase string }
}

// readRecord opens the record `<prefix>keyring` by a keyring file's keys [S10.2, S5.6].
func readRecord(record, keyring []byte) (found values10) {
	line := strings.Split(strings.TrimSuffix(string(record), "\n"), "\n")
	namespace := must(hex.DecodeString(strings.ReplaceAll(strings.Fields(line[1])[2], "-", "")))
	var serial uint64
	must(fmt.Sscanf(line[2], "generation %d", &serial))
	subject, dc := append([]byte{2}, namespace...), b64(strings.Fields(line[4])[1])
	digest := sha256.Sum256([]byte(line[len(line)-1] + "\n"))
	if strings.Fields(line[3])[1] != hex.EncodeToString(digest[:]) {
		check(fmt.Errorf("the seal is of another line [S5.10]"))
	}
	for _, master := range strings.Split(string(keyring), "\n")[1:] {
		field := strings.Fields(master)
		for _, stanza := range line[5 : len(line)-2] {
			part := strings.Fields(stanza)
			if len(field) < 5 || part[1] != "local" || part[2] != field[0] || field[2] == "destroyed" {
				continue
			}
			dek := unseal(b64(part[3]), b64(field[4]), label("data-key", subject, dc, digest[:], must(hex.DecodeString(part[2])), []byte("local")))
			mac := hmac.New(sha256.New, expand(dek, label("seal-mac"), 32))
			mac.Write(record[:bytes.LastIndex(record, []byte("\n---"))+4])
			if !hmac.Equal(expand(dek, label("data-key-commitment", subject), 32), dc) ||
				!hmac.Equal(mac.Sum(nil), b64(strings.Fields(line[len(line)-2])[1])) {
				check(fmt.Errorf("the seal was changed"))
			}
			context := label("value-keyring", namespace, binary.BigEndian.AppendUint64(nil, serial))
			sealed := b64(strings.Fields(line[len(line)-1])[1])
			check(json.Unmarshal(unseal(sealed, expand(dek, label("value-keyring-key"), 32), context), &found))
			found.namespace = namespace
			return found
		}
	}
	check(fmt.Errorf("no key of the keyring opens the record"))
	return found
}

// xaes is C2SP's XAES-256-GCM with this nonce's first half: a key of its own for the second [S10.1.1].
func xaes(secret, nonce []byte) cipher.AEAD {
	block, k1 := must(aes.NewCipher(expand(secret, label("value-key", []byte{1}), 32))), make([]byte, 16)
	block.Encrypt(k1, k1)
	carry := k1[0] >> 7
	for i := range k1 {
		k1[i] <<= 1
		if i < 15 {
			k1[i] |= k1[i+1] >> 7
		}
	}
	k1[15] ^= carry * 0x87
	key := make([]byte, 32)
	for half := range 2 {
		input := append([]byte{0, byte(half + 1), 'X', 0}, nonce[:12]...)
		for i := range input {
			input[i] ^= k1[i]
		}
		block.Encrypt(key[16*half:], input)
	}
	return gcm(key)
}

// phase of a key's values: `done` for all that is not listed [S10.2.7].
func (v values10) phase(key []byte) string {
	for _, one := range v.Migrate {
		if bytes.HasPrefix(key, b64(one.Prefix)) {
			return one.Phase
		}
	}
	return "done"
}

func (v values10) seal(key, value []byte) []byte {
	switch v.phase(key) {
	case "done", "encrypt", "admit-back":
	default:
		check(fmt.Errorf("values of this prefix are not encrypted now [S10.2.7]"))
	}
	for _, one := range v.Keys {
		if one.State == "primary" {
			header, nonce := append([]byte("\x00SR\x01"), must(hex.DecodeString(one.ID))...), make([]byte, 24)
			must(rand.Read(nonce))
			aad := label("value", header, v.namespace, key)
			return xaes(b64(one.Key), nonce).Seal(append(header, nonce...), nonce[12:], value, aad)
		}
	}
	return nil
}

// open gives the value, or the class of what is wrong [S10.1.4, S10.1.5].
func (v values10) open(key, sealed []byte) ([]byte, string) {
	phase := v.phase(key)
	if !bytes.HasPrefix(sealed, []byte("\x00SR")) {
		if phase == "done" {
			return nil, "tampered"
		}
		return sealed, "ok"
	}
	if phase == "off" {
		return nil, "tampered"
	}
	if len(sealed) < 48 {
		return nil, "truncated"
	}
	if sealed[3] != 1 { // 2 is XChaCha20-Poly1305, which no writer chooses by itself
		return nil, "unsupported"
	}
	for _, one := range v.Keys {
		if one.ID != hex.EncodeToString(sealed[4:8]) || one.State == "disabled" || one.State == "destroyed" {
			continue
		}
		nonce := sealed[8:32]
		value, err := xaes(b64(one.Key), nonce).Open(nil, nonce[12:], sealed[32:], label("value", sealed[:8], v.namespace, key))
		if err != nil {
			return nil, "tampered"
		}
		return value, "ok"
	}
	return nil, "wrong-key"
}

// value seal|open KEYRING RECORD KEY: standard input to standard output; KEYRING is a file without a passphrase, RECORD
// holds what etcd has under `/strongroom/keyring`. value vectors FILE: checks every case of tests/vectors/values.json.
func value(args []string) {
	if args[0] == "vectors" {
		vectors(args[1])
		return
	}
	values, input := readRecord(must(os.ReadFile(args[2])), must(os.ReadFile(args[1]))), must(io.ReadAll(os.Stdin))
	output, class := []byte(nil), "ok"
	if args[0] == "seal" {
		output = values.seal([]byte(args[3]), input)
	} else {
		output, class = values.open([]byte(args[3]), input)
	}
	if class != "ok" {
		check(fmt.Errorf("%s", class))
	}
	must(os.Stdout.Write(output))
}

func vectors(path string) {
	var file struct {
		Keyring, Record string
		Cases           []struct{ Name, Key, Sealed, Class, Value string }
	}
	check(json.Unmarshal(must(os.ReadFile(path)), &file))
	values := readRecord(b64(file.Record), must(os.ReadFile(filepath.Join(filepath.Dir(path), file.Keyring))))
	for _, one := range file.Cases {
		got, class := values.open(b64(one.Key), b64(one.Sealed))
		if strings.HasPrefix(one.Name, "xchacha") {
			one.Class, one.Value = "unsupported", ""
		}
		if class != one.Class || base64.RawStdEncoding.EncodeToString(got) != one.Value {
			check(fmt.Errorf("%s: %s %x, not %s", one.Name, class, got, one.Class))
		}
		key := b64(one.Key)
		if values.phase(key) != "done" {
			continue
		}
		if again, class := values.open(key, values.seal(key, got)); class != "ok" || !bytes.Equal(again, got) {
			check(fmt.Errorf("%s: what was sealed here does not open: %s", one.Name, class))
		}
	}
	fmt.Printf("%d passed, 0 failed\n", len(file.Cases))
}
