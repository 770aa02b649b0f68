package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/raftcask/raftcask/client"
)

func Example() {
	ctx := context.Background()
	c, err := client.New(client.Options{Addrs: client.DemoCluster()}) // such as []string{"10.0.0.1:7379", "10.0.0.2:7379"}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	if err := c.Set(ctx, "greeting", []byte("hello"), client.WithTTL(time.Hour)); err != nil {
		fmt.Println(err)
		return
	}
	value, err := c.Get(ctx, "greeting")
	fmt.Println(string(value), err)

	_, err = c.Get(ctx, "farewell")
	fmt.Println(errors.Is(err, client.ErrNotFound))

	err = c.Set(ctx, "greeting", []byte("hi"), client.IfAbsent())
	fmt.Println(errors.Is(err, client.ErrConditionFailed))

	switch n, err := c.Incr(ctx, "visits"); {
	case err == nil:
		fmt.Println("visit", n)
	case errors.Is(err, client.ErrOutcomeUnknown):
		fmt.Println("it may have been counted: read it before counting again")
	case errors.Is(err, client.ErrNotApplied):
		fmt.Println("it was not counted: try again later")
	}
	// Output:
	// hello <nil>
	// true
	// true
	// visit 1
}

func ExampleClient_Run() {
	ctx := context.Background()
	c, err := client.New(client.Options{Addrs: client.DemoCluster()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	var b client.Batch
	b.Set("color", []byte("green"))
	b.Get("color")
	b.Delete("color")
	results, err := c.Run(ctx, &b)
	if err != nil {
		fmt.Println(err)
		return
	}
	color, err := results[1].Bytes()
	fmt.Println(string(color), err)
	deleted, err := results[2].Int()
	fmt.Println(deleted, err)
	// Output:
	// green <nil>
	// 1 <nil>
}

func ExampleRetryUnknown() {
	ctx := context.Background()
	c, err := client.New(client.Options{Addrs: client.DemoCluster()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	// This process is the only writer of the key, so that repeating a Set overwrites nothing but itself.
	err = c.Set(ctx, "sensor:7", []byte("21.5"), client.RetryUnknown())
	fmt.Println(err)

	// The same for calls that take no options.
	_, err = c.With(client.RetryUnknown()).Delete(ctx, "sensor:7")
	fmt.Println(err)
	// Output:
	// <nil>
	// <nil>
}
