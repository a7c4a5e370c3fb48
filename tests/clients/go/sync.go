package main

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// syncEndpoints ENDPOINT [KEY]: what Go clients do with `AutoSyncInterval`: they ask for the members and talk to those from
// then on. Prints where the client talks to after that, the version that each of those says it has, and puts KEY there.
func syncEndpoints(args []string) {
	client := connect(args[0])
	ctx := within(20 * time.Second)
	members := must(client.MemberList(ctx)).Members
	for _, member := range members {
		fmt.Println("member", strings.Join(member.ClientURLs, ","))
	}
	check(client.Sync(ctx))
	endpoints := client.Endpoints()
	sort.Strings(endpoints)
	fmt.Println("endpoints", strings.Join(endpoints, ","))
	if len(args) < 2 {
		return
	}
	for _, endpoint := range endpoints {
		status := must(client.Status(ctx, endpoint))
		fmt.Println("status", status.Version, status.Leader != 0, len(status.Errors))
	}
	must(client.Put(ctx, args[1], "plaintext-after-sync"))
	fmt.Println("read", string(must(client.Get(ctx, args[1])).Kvs[0].Value))
}
