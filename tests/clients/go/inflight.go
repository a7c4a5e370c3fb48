package main

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// counts are calls by what they ended with.
type counts struct {
	sync.Mutex
	of map[string]int
}

func (c *counts) add(name string, err error) {
	c.Lock()
	defer c.Unlock()
	c.of[name+" "+status.Code(err).String()]++
	if code := status.Code(err).String(); code == "Unknown" || code == "Internal" {
		c.of[name+" "+code+": "+err.Error()]++
	}
}

// inflight ENDPOINT KEY: calls of every kind over plain gRPC, without the retries of etcd's client, until the test says so; it
// kills etcd or the proxy meanwhile. Prints how often each kind ended with each code, as etcd's own
// TestV3KVInflightRangeRequests looks at them.
func inflight(args []string) {
	target := strings.TrimPrefix(args[0], "http://")
	conn := must(grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second})))
	kv, watch, lease := pb.NewKVClient(conn), pb.NewWatchClient(conn), pb.NewLeaseClient(conn)
	found := counts{of: map[string]int{}}
	name, value := []byte(args[1]), []byte("plaintext-inflight")
	must(kv.Put(within(5*time.Second), &pb.PutRequest{Key: name, Value: value}))
	granted := must(lease.LeaseGrant(within(5*time.Second), &pb.LeaseGrantRequest{TTL: 600}))
	calls := map[string]func(context.Context) error{
		"Range": func(ctx context.Context) error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: name, Serializable: true})
			return err
		},
		"Put": func(ctx context.Context) error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: name, Value: value})
			return err
		},
		// The proxy decides this one itself, with two calls to etcd.
		"Txn": func(ctx context.Context) error {
			compare := &pb.Compare{Target: pb.Compare_VALUE, Key: name, TargetUnion: &pb.Compare_Value{Value: value}}
			_, err := kv.Txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{compare}})
			return err
		},
		"Watch": func(ctx context.Context) error {
			stream, err := watch.Watch(ctx)
			if err != nil {
				return err
			}
			create := &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("silent")}}
			// What Send fails with, Recv says better.
			_ = stream.Send(&pb.WatchRequest{RequestUnion: create})
			for err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"LeaseKeepAlive": func(ctx context.Context) error {
			stream, err := lease.LeaseKeepAlive(ctx)
			for err == nil {
				_ = stream.Send(&pb.LeaseKeepAliveRequest{ID: granted.ID})
				_, err = stream.Recv()
				time.Sleep(time.Millisecond)
			}
			return err
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	for name, call := range calls {
		for range 8 {
			wait.Add(1)
			go func() {
				defer wait.Done()
				for ctx.Err() == nil {
					found.add(name, call(ctx))
					time.Sleep(time.Millisecond)
				}
			}()
		}
	}
	say("calling")
	cancel()
	wait.Wait()
	lines := []string{}
	for line, times := range found.of {
		lines = append(lines, fmt.Sprintf("%d %s", times, line))
	}
	sort.Strings(lines)
	fmt.Println(strings.Join(lines, "\n"))
}
