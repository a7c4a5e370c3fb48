package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"
)

type call struct {
	key, kind, value, expected string
}

// result is what a call is known to have done.
type result struct {
	value   string
	swapped bool
	unknown bool
}

// A register that is read, written, and compared and written. The empty text stands for no value.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := map[string][]porcupine.Operation{}
		for _, operation := range history {
			key := operation.Input.(call).key
			parts[key] = append(parts[key], operation)
		}
		all := [][]porcupine.Operation{}
		for _, part := range parts {
			all = append(all, part)
		}
		return all
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		now, asked, got := state.(string), input.(call), output.(result)
		switch asked.kind {
		case "get":
			return got.value == now, now
		case "put":
			return true, asked.value
		default:
			matches := now == asked.expected
			if matches {
				now = asked.value
			}
			return got.unknown || got.swapped == matches, now
		}
	},
}

// linear SECONDS KEYS ENDPOINT…: clients of each endpoint read, write and compare the same keys, while the test kills etcd
// and the proxies; then the history of what each was told is checked. A call that failed may have happened at any later
// time, or never.
func linear(args []string) {
	limit := time.Duration(must(strconv.Atoi(args[0]))) * time.Second
	keys := must(strconv.Atoi(args[1]))
	var number atomic.Int64
	var lock sync.Mutex
	var wait sync.WaitGroup
	history, begun := []porcupine.Operation{}, time.Now()
	failed := 0
	fmt.Println("running")
	for at := range 4 * (len(args) - 2) {
		client := connect(args[2+at%(len(args)-2)])
		wait.Add(1)
		go func() {
			defer wait.Done()
			random := rand.New(rand.NewSource(int64(at)))
			last := map[string]string{}
			for id := at; time.Since(begun) < limit; {
				asked := call{key: "linear/" + strconv.Itoa(random.Intn(keys)), kind: []string{"get", "put", "cas", "cas"}[random.Intn(4)]}
				asked.value, asked.expected = "plaintext-"+strconv.FormatInt(number.Add(1), 10), last[asked.key]
				called := time.Since(begun)
				got, err := ask(client, asked)
				returned := time.Since(begun).Nanoseconds()
				if err != nil {
					got.unknown, returned = true, math.MaxInt64
				}
				lock.Lock()
				if err != nil {
					failed++
				}
				// A read that failed tells nothing.
				if err == nil || asked.kind != "get" {
					history = append(history, porcupine.Operation{
						ClientId: id, Input: asked, Call: called.Nanoseconds(), Output: got, Return: returned,
					})
				}
				lock.Unlock()
				if err != nil {
					// Who does not know what became of a call is another client from then on.
					id += 1000
					time.Sleep(20 * time.Millisecond)
					continue
				}
				last[asked.key] = asked.value
				if asked.kind != "put" && !got.swapped {
					last[asked.key] = got.value
				}
			}
		}()
	}
	wait.Wait()
	swapped := 0
	for _, operation := range history {
		if operation.Output.(result).swapped {
			swapped++
		}
	}
	fmt.Printf("operations %d failed %d swapped %d\n", len(history), failed, swapped)
	fmt.Println("linearizable", porcupine.CheckOperationsTimeout(register, history, 2*time.Minute))
}

// ask is one try; the client's own tries again would hide when a call happened twice.
func ask(client *clientv3.Client, asked call) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	read := func(got *clientv3.GetResponse) string {
		if len(got.Kvs) == 0 {
			return ""
		}
		return string(got.Kvs[0].Value)
	}
	switch asked.kind {
	case "get":
		got, err := client.Get(ctx, asked.key)
		if err != nil {
			return result{}, err
		}
		return result{value: read(got)}, nil
	case "put":
		_, err := client.Put(ctx, asked.key, asked.value)
		return result{}, err
	}
	// By value, which the proxy decides itself: etcd sees ciphertext only.
	compare := clientv3.Compare(clientv3.Value(asked.key), "=", asked.expected)
	if asked.expected == "" {
		compare = clientv3.Compare(clientv3.CreateRevision(asked.key), "=", 0)
	}
	got, err := client.Txn(ctx).If(compare).
		Then(clientv3.OpPut(asked.key, asked.value)).Else(clientv3.OpGet(asked.key)).Commit()
	if err != nil {
		return result{}, err
	}
	if got.Succeeded {
		return result{swapped: true}, nil
	}
	response := got.Responses[0].GetResponseRange()
	if response == nil {
		return result{}, errors.New("no answer to the read of a transaction")
	}
	value := read((*clientv3.GetResponse)(response))
	if strings.HasPrefix(value, "\x00SR") {
		check(fmt.Errorf("ciphertext of %s", asked.key))
	}
	return result{value: value}, nil
}
