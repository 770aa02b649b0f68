package bitcask_test

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/raftcask/raftcask/bitcask"
)

func Example() {
	dir, err := os.MkdirTemp("", "bitcask-example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()

	db, err := bitcask.Open(dir, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = db.Close() }()

	// Several records in one batch: all of them or none.
	var batch bitcask.Batch
	_ = batch.Put([]byte("user:1"), []byte("ada"), 0)
	_ = batch.Put([]byte("user:2"), []byte("grace"), 0)
	if err := db.Write(&batch); err != nil {
		fmt.Println(err)
		return
	}
	_ = db.PutWithTTL([]byte("session"), []byte("…"), time.Hour)
	_ = db.Delete([]byte("user:2"))

	name, err := db.Get([]byte("user:1"))
	fmt.Println(string(name), err)
	_, err = db.Get([]byte("user:2"))
	fmt.Println(errors.Is(err, bitcask.ErrNotFound))
	_ = db.Scan([]byte("user:"), func(key, value []byte) error {
		fmt.Printf("%s=%s\n", key, value)
		return nil
	})
	// Output:
	// ada <nil>
	// true
	// user:1=ada
}
