package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/raftcask/raftcask/bitcask"
)

func TestStartErrorsSayWhatToDo(t *testing.T) {
	cfg := Config{DataDir: "/data/n1", Gossip: Address{Bind: "127.0.0.1:10379"}}
	for _, tc := range []struct {
		err  error
		want []string
	}{
		{&portError{"RESP", "--resp-addr", "127.0.0.1:7379", syscall.EADDRINUSE}, []string{"127.0.0.1:7379", "in use", "--resp-addr"}},
		{&portError{"peer", "--peer-addr", "10.9.9.9:1", syscall.EADDRNOTAVAIL}, []string{"10.9.9.9:1", "not one of this machine", "--peer-addr"}},
		{&portError{"HTTP", "--http-addr", ":80", syscall.EACCES}, []string{":80", "above 1023", "--http-addr"}},
		{fmt.Errorf("open: %w (held by pid 12)", bitcask.ErrLocked), []string{"/data/n1", "in use", "pid 12", "--data"}},
		{fmt.Errorf("segment 7 at 4096: %w", bitcask.ErrCorrupt), []string{"/data/n1", "damaged", "segment 7 at 4096", "--id"}},
		{fmt.Errorf("create: %w", syscall.EROFS), []string{"/data/n1", "not writable", "--data"}},
		{fmt.Errorf("create: %w", fs.ErrPermission), []string{"/data/n1", "not writable", "--data"}},
		{syscall.ENOSPC, []string{"no space", "/data/n1"}},
	} {
		text := explain(cfg, tc.err).Error()
		for _, want := range tc.want {
			if !strings.Contains(text, want) {
				t.Errorf("%v\n got %q\nwant %q in it", tc.err, text, want)
			}
		}
		if strings.Contains(text, "\n") {
			t.Errorf("%q has more than one line", text)
		}
	}
	if plain := errors.New("x"); !errors.Is(explain(cfg, plain), plain) {
		t.Error("an error that is not known was changed")
	}
}

func TestFirstFatalErrorIsTheCause(t *testing.T) {
	s := &Server{cfg: Config{DataDir: "/data/n1"}, fatal: make(chan error, 1)}
	s.onFatal(fmt.Errorf("sync segment 3: %w", bitcask.ErrPoisoned))
	s.onFatal(errors.New("a consequence"))
	err := s.Wait(t.Context())
	if err == nil {
		t.Fatal("Wait returned nil")
	}
	for _, want := range []string{"sync segment 3", "/data/n1", "check it"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx); err != nil {
		t.Errorf("Wait after the end of its context: %v", err)
	}
}

func TestPortInUseLeavesNothingBehind(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free := Address{Bind: "127.0.0.1:0"}
	cfg := Config{
		DataDir: t.TempDir(), Resp: free, Peer: free, Gossip: free, HTTP: Address{Bind: taken.Addr().String()},
		BootstrapExpect: 1, Logger: slog.New(slog.DiscardHandler),
	}
	if _, err = Start(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "--http-addr") {
		t.Fatalf("got %v, want a sentence that names --http-addr", err)
	}
	_ = taken.Close()
	cfg.ID = "n9" // the failed start has drawn no other
	s, err := Start(context.Background(), cfg)
	if err != nil {
		t.Fatalf("after the failed start: %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDataDirectoryThatIsNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	free := Address{Bind: "127.0.0.1:0"}
	cfg := Config{DataDir: file, Resp: free, Peer: free, Gossip: free, HTTP: free, BootstrapExpect: 1, Logger: slog.New(slog.DiscardHandler)}
	if _, err := Start(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("got %v", err)
	}
}

func TestAdvertisedAddress(t *testing.T) {
	actual := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4321}
	own, err := ownHost()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		addr Address
		want string
	}{
		{Address{Bind: "127.0.0.1:0"}, "127.0.0.1:4321"},
		{Address{Bind: "node1.example:4321"}, "node1.example:4321"},
		{Address{Bind: ":4321"}, net.JoinHostPort(own, "4321")},
		{Address{Bind: "0.0.0.0:0"}, net.JoinHostPort(own, "4321")},
		{Address{Bind: "[::]:4321", Advertise: "public.example:99"}, "public.example:99"},
		{Address{Bind: "127.0.0.1:0", Advertise: "public.example:0"}, "public.example:4321"},
	} {
		if got, err := tc.addr.advertised(actual); err != nil || got != tc.want {
			t.Errorf("%+v: got %q, %v, want %q", tc.addr, got, err, tc.want)
		}
	}
}
