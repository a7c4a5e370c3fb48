// Clients of two Kubernetes API servers that keep their objects in the same etcd. They write Secrets, ConfigMaps and
// Pods through both servers and watch them through both, without a pause. Every write that was acknowledged must be
// seen by every watcher, and an error is accepted only from a server that is being restarted.
//
//	kubernetes-apiserver URL URL    the bearer token is in STRONGROOM_TEST_TOKEN
//
// Standard input says what happens: "restarting 0|1", "restarted 0|1", "write" (which is answered when every writer has
// made 50 more writes and every watcher has seen them), "end" (which is answered with the counts).
package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// What is written and watched: two kinds that are often large and secret, and one that changes often.
var kinds = []string{"secrets", "configmaps", "pods"}

const (
	namespace = "default"
	// patience is how long a server may take to become ready, and a watcher to see a write.
	patience = 120 * time.Second
	pause    = 50 * time.Millisecond
	// Writes of each writer between two steps of the test.
	work = 50
)

// server is one API server. windows is odd while the test restarts it.
type server struct {
	name    string
	client  dynamic.Interface
	http    *http.Client
	url     string
	windows atomic.Int64
	excused atomic.Int64
}

func connect(at int, url string) *server {
	config := &rest.Config{
		Host:            url,
		BearerToken:     os.Getenv("STRONGROOM_TEST_TOKEN"),
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		QPS:             -1,
	}
	return &server{
		name:   string(rune('a' + at)),
		client: must(dynamic.NewForConfig(config)),
		http:   must(rest.HTTPClientFor(config)),
		url:    url,
	}
}

func (s *server) objects(kind string) dynamic.ResourceInterface {
	return s.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: kind}).Namespace(namespace)
}

// excuse tells whether an error is due to a restart: one that goes on, or that began after windows was read.
func (s *server) excuse(windows int64) bool {
	excused := windows%2 == 1 || s.windows.Load() != windows
	if excused {
		s.excused.Add(1)
	}
	return excused
}

func (s *server) waitReady() {
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(pause) {
		answer, err := s.http.Get(s.url + "/readyz")
		if err != nil {
			continue
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return
		}
	}
	fail("server %s is not ready", s.name)
}

func main() {
	if len(os.Args) != 3 {
		fail("usage: kubernetes-apiserver URL URL")
	}
	servers := []*server{connect(0, os.Args[1]), connect(1, os.Args[2])}
	for _, server := range servers {
		server.waitReady()
	}
	var writers []*writer
	var watchers []*watcher
	for _, server := range servers {
		for _, kind := range kinds {
			writers = append(writers, newWriter(server, kind))
			watchers = append(watchers, newWatcher(server, kind))
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	var working sync.WaitGroup
	for _, watcher := range watchers {
		go watcher.run()
	}
	for _, writer := range writers {
		working.Add(1)
		go func() {
			defer working.Done()
			writer.run(ctx)
		}()
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		word, at, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "restarting":
			servers[must(strconv.Atoi(at))].windows.Add(1)
		case "restarted":
			server := servers[must(strconv.Atoi(at))]
			server.waitReady()
			server.windows.Add(1)
		case "write":
			for _, writer := range writers {
				writer.waitFor(work)
			}
			waitUntilSeen(writers, watchers)
		case "end":
			stop()
			working.Wait()
			waitUntilSeen(writers, watchers)
			finish(servers, writers, watchers)
			return
		}
		fmt.Println("done")
	}
}

// waitUntilSeen waits until every watcher has seen all that was acknowledged until now.
func waitUntilSeen(writers []*writer, watchers []*watcher) {
	for _, writer := range writers {
		acknowledged := writer.snapshot()
		for _, watcher := range watchers {
			if watcher.kind == writer.kind {
				watcher.waitFor(acknowledged)
			}
		}
	}
}

func must[T any](result T, err error) T {
	if err != nil {
		fail("%v", err)
	}
	return result
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "kubernetes-apiserver: "+format+"\n", args...)
	os.Exit(1)
}
