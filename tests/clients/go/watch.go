package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// watchSurvival ENDPOINTS PREFIX N: N watchers, of which each three are of one client. The test kills etcd and starts it
// again while they wait. Prints how many of them then see a put.
func watchSurvival(args []string) {
	endpoints, prefix, count := args[0], args[1], must(strconv.Atoi(args[2]))
	writer := connect(endpoints)
	watches := make([]clientv3.WatchChan, count)
	var client *clientv3.Client
	for i := range watches {
		if i%3 == 0 {
			client = connect(endpoints)
		}
		watches[i] = client.Watch(context.Background(), key(prefix, i), clientv3.WithCreatedNotify())
		if created := <-watches[i]; !created.Created {
			check(fmt.Errorf("watch %d is not created: %w", i, created.Err()))
		}
	}
	say("watching")
	for i := range watches {
		put(writer, key(prefix, i), "plaintext-after")
	}
	var wait sync.WaitGroup
	seen := make([]bool, count)
	for i, watch := range watches {
		wait.Add(1)
		go func() {
			defer wait.Done()
			limit := time.After(15 * time.Second)
			for {
				select {
				case response, open := <-watch:
					if !open {
						return
					}
					for _, event := range response.Events {
						seen[i] = string(event.Kv.Value) == "plaintext-after"
					}
					if seen[i] || response.Canceled {
						return
					}
				case <-limit:
					return
				}
			}
		}()
	}
	wait.Wait()
	alive := 0
	for _, one := range seen {
		if one {
			alive++
		}
	}
	fmt.Printf("alive %d\n", alive)
}

func key(prefix string, i int) string { return fmt.Sprintf("%s%03d", prefix, i) }

// put tries until etcd answers again.
func put(client *clientv3.Client, key, value string) {
	var err error
	for range 100 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err = client.Put(ctx, key, value)
		cancel()
		if err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	check(err)
}
