// Kubernetes' own code on both sides of its KMS v2 API.
//
//	kmsv2 client CONFIG     the API server's: an EncryptionConfiguration is loaded as the API server loads it; then one
//	                        request a line on standard input, one answer a line on standard output:
//	                        write PATH VALUE -> the stored bytes in base64
//	                        read PATH BASE64 -> "fresh VALUE" or "stale VALUE"
//	                        health           -> "ok"
//	                        and "error: …" for what failed.
//	kmsv2 serve SOCKET      k8s.io/kms's: a plugin that encrypts by AES-GCM under a key of this process.
package main

import (
	"bufio"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/kms/pkg/service"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "client":
		err = client(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "serve":
		err = serve(os.Args[2])
	default:
		err = errors.New("usage: kmsv2 client CONFIG | serve SOCKET")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func client(config string) error {
	ctx := context.Background()
	loaded, err := encryptionconfig.LoadEncryptionConfig(ctx, config, false, "test")
	if err != nil {
		return err
	}
	secrets := loaded.Transformers[schema.GroupResource{Resource: "secrets"}]
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		answer, err := answer(ctx, loaded, secrets, strings.Split(lines.Text(), " "))
		if err != nil {
			answer = "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Println(answer)
	}
	return lines.Err()
}

func answer(ctx context.Context, loaded *encryptionconfig.EncryptionConfiguration, secrets value.Transformer, words []string) (string, error) {
	switch {
	case words[0] == "health" && len(words) == 1:
		for _, check := range loaded.HealthChecks {
			if err := check.Check(&http.Request{}); err != nil {
				return "", err
			}
		}
		return "ok", nil
	case words[0] == "write" && len(words) == 3:
		stored, err := secrets.TransformToStorage(ctx, []byte(words[2]), value.DefaultContext(words[1]))
		return base64.StdEncoding.EncodeToString(stored), err
	case words[0] == "read" && len(words) == 3:
		stored, err := base64.StdEncoding.DecodeString(words[2])
		if err != nil {
			return "", err
		}
		text, stale, err := secrets.TransformFromStorage(ctx, stored, value.DefaultContext(words[1]))
		if stale {
			return "stale " + string(text), err
		}
		return "fresh " + string(text), err
	}
	return "", fmt.Errorf("not a request: %v", words)
}

type plugin struct {
	aead cipher.AEAD
	id   string
}

func serve(socket string) error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	id := hex.EncodeToString(key[:4])
	return service.NewGRPCService(socket, 10*time.Second, &plugin{aead, id}).ListenAndServe()
}

func (p *plugin) Status(context.Context) (*service.StatusResponse, error) {
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: p.id}, nil
}

func (p *plugin) Encrypt(_ context.Context, _ string, data []byte) (*service.EncryptResponse, error) {
	nonce := make([]byte, p.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	sealed := p.aead.Seal(nonce, nonce, data, nil)
	annotations := map[string][]byte{"version.encryption.example": []byte("1"), "b.encryption.example": nil}
	return &service.EncryptResponse{Ciphertext: sealed, KeyID: p.id, Annotations: annotations}, nil
}

func (p *plugin) Decrypt(_ context.Context, _ string, req *service.DecryptRequest) ([]byte, error) {
	if req.KeyID != p.id || string(req.Annotations["version.encryption.example"]) != "1" || len(req.Annotations) != 2 {
		return nil, errors.New("key or annotations are not those of Encrypt")
	}
	size := p.aead.NonceSize()
	if len(req.Ciphertext) < size {
		return nil, errors.New("short ciphertext")
	}
	return p.aead.Open(nil, req.Ciphertext[:size], req.Ciphertext[size:], nil)
}
