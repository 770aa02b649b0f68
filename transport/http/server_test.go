package http

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

func request(t *testing.T, s *Server, method, path string) (int, nethttp.Header, string) {
	t.Helper()
	req, err := nethttp.NewRequestWithContext(t.Context(), method, "http://"+s.Addr().String()+path, nethttp.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &nethttp.Client{Transport: &nethttp.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

func check(name string, err error) Check {
	return Check{Name: name, Run: func(context.Context) error { return err }}
}

func TestHealthSaysWhyNot(t *testing.T) {
	good, bad := check("storage", nil), check("leader", errors.New("no leader\nis known"))
	worse := check("disk", errors.New("full"))
	tests := []struct {
		name   string
		checks []Check
		query  string
		status int
		body   string
	}{
		{"no checks", nil, "", 200, "ok\n"},
		{"all hold", []Check{good}, "", 200, "ok\n"},
		{"one fails", []Check{good, bad}, "", 503, "leader: no leader is known\n"},
		{"two fail", []Check{bad, worse}, "", 503, "leader: no leader is known\n"},
		{"verbose, all hold", []Check{good}, "?verbose", 200, "ok      storage\nok\n"},
		{
			"verbose, two fail", []Check{good, bad, worse}, "?verbose", 503,
			"ok      storage\nfailed  leader: no leader is known\nfailed  disk: full\nleader: no leader is known\n",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, path := range []string{"/readyz", "/livez"} {
				cfg := Config{Ready: test.checks}
				other := "/livez"
				if path == "/livez" {
					cfg = Config{Live: test.checks}
					other = "/readyz"
				}
				s := start(t, cfg)
				if status, _, body := request(t, s, "GET", path+test.query); status != test.status || body != test.body {
					t.Errorf("%s: %d %q, want %d %q", path, status, body, test.status, test.body)
				}
				if status, _, body := request(t, s, "GET", other); status != 200 || body != "ok\n" {
					t.Errorf("%s without checks: %d %q", other, status, body)
				}
			}
		})
	}
}

func TestHangingCheckIsAskedToStop(t *testing.T) {
	s := start(t, Config{Ready: []Check{{Name: "raft", Run: func(ctx context.Context) error {
		deadline, ok := ctx.Deadline()
		if !ok || time.Until(deadline) > checkTimeout {
			return fmt.Errorf("deadline %v, %t", deadline, ok)
		}
		return nil
	}}}})
	if status, _, body := request(t, s, "GET", "/readyz"); status != 200 {
		t.Errorf("%d %s", status, body)
	}
}

func TestMetricsAreServed(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "raftcask_test_total", Help: "A test."})
	registry.MustRegister(counter)
	counter.Add(3)
	s := start(t, Config{Gatherer: registry})
	status, header, body := request(t, s, "GET", "/metrics")
	if status != 200 || !strings.Contains(body, "raftcask_test_total 3") || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
		t.Errorf("%d %v %q", status, header, body)
	}
	if status, _, _ := request(t, start(t, Config{}), "GET", "/metrics"); status != 404 {
		t.Errorf("without a gatherer: %d, want 404", status)
	}
}

func TestIndexNamesTheEndpoints(t *testing.T) {
	s := start(t, Config{Gatherer: prometheus.NewRegistry()})
	s.Handle("PUT /v1/kv/{key}", nethttp.NotFoundHandler(), "write a key")
	s.Handle("GET /hidden", nethttp.NotFoundHandler(), "")
	status, header, body := request(t, s, "GET", "/")
	if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
		t.Errorf("%d %v", status, header)
	}
	for _, want := range []string{"/livez", "/readyz", "/metrics", "PUT /v1/kv/{key}", "write a key"} {
		if !strings.Contains(body, want) {
			t.Errorf("the index lacks %q:\n%s", want, body)
		}
	}
	if strings.Contains(body, "hidden") {
		t.Errorf("the index shows a route without a summary:\n%s", body)
	}
}

func TestOtherMethodsAndPathsAreRefused(t *testing.T) {
	s := start(t, Config{Gatherer: prometheus.NewRegistry()})
	for _, path := range []string{"/", "/livez", "/readyz", "/metrics"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
			if status, header, _ := request(t, s, method, path); status != 405 || header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d, Allow %q, want 405", method, path, status, header.Get("Allow"))
			}
		}
		if status, _, body := request(t, s, "HEAD", path); status != 200 || body != "" {
			t.Errorf("HEAD %s: %d %q", path, status, body)
		}
	}
	for _, path := range []string{"/nothing", "/livez/", "/metrics/x"} {
		if status, _, _ := request(t, s, "GET", path); status != 404 {
			t.Errorf("GET %s: %d, want 404", path, status)
		}
	}
}

func TestRegisteredRoutesAreServed(t *testing.T) {
	s := start(t, Config{})
	s.Handle("GET /v1/kv/{key}", nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		fmt.Fprintf(w, "value of %s", r.PathValue("key"))
	}), "read a key")
	if status, _, body := request(t, s, "GET", "/v1/kv/a%2Fb"); status != 200 || body != "value of a/b" {
		t.Errorf("%d %q", status, body)
	}
	if status, _, _ := request(t, s, "DELETE", "/v1/kv/a"); status != 405 {
		t.Errorf("another method: %d, want 405", status)
	}
}

func TestOversizedHeadersAreRefused(t *testing.T) {
	s := start(t, Config{})
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 2*maxHeaderBytes))
	}()
	resp, err := nethttp.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != nethttp.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d, want 431", resp.StatusCode)
	}
}

func TestPanickingHandlerHurtsNobodyElse(t *testing.T) {
	s := start(t, Config{})
	s.Handle("GET /panic", nethttp.HandlerFunc(func(nethttp.ResponseWriter, *nethttp.Request) { panic("broken") }), "")
	client := &nethttp.Client{Transport: &nethttp.Transport{DisableKeepAlives: true}}
	if resp, err := client.Get("http://" + s.Addr().String() + "/panic"); err == nil {
		_ = resp.Body.Close()
		t.Error("the panic was answered")
	}
	if status, _, _ := request(t, s, "GET", "/livez"); status != 200 {
		t.Errorf("after the panic: %d", status)
	}
}

func TestCloseLetsRunningRequestsFinish(t *testing.T) {
	s := start(t, Config{})
	running, release := make(chan struct{}), make(chan struct{})
	s.Handle("GET /slow", nethttp.HandlerFunc(func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		close(running)
		<-release
		_, _ = io.WriteString(w, "done")
	}), "")
	answered := make(chan string, 1)
	go func() {
		_, _, body := request(t, s, "GET", "/slow")
		answered <- body
	}()
	<-running
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	refused := func() bool {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}
	for deadline := time.Now().Add(20 * time.Second); !refused(); {
		if time.Now().After(deadline) {
			t.Fatal("the closing server still accepts")
		}
		time.Sleep(time.Millisecond)
	}
	close(release)
	if body := <-answered; body != "done" {
		t.Errorf("got %q", body)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestCloseWithoutServeFreesTheAddress(t *testing.T) {
	s, err := New(Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	addr := s.Addr().String()
	if _, err := New(Config{Addr: addr}); err == nil {
		t.Error("a second server on the same address")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Serve(); err != nil {
		t.Errorf("serve after Close: %v", err)
	}
	again, err := New(Config{Addr: addr})
	if err != nil {
		t.Fatalf("the address is still taken: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limit(inner, 2)
	var accepted atomic.Int64
	conns := make(chan net.Conn, 3)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			conns <- conn
		}
	}()
	for range 3 {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	first := <-conns
	second := <-conns
	if len(l.places) != 2 || accepted.Load() != 2 {
		t.Errorf("%d connections are open, at most 2 are allowed", accepted.Load())
	}
	_ = first.Close()
	_ = first.Close() // a second close must not free a second place
	third := <-conns
	if len(l.places) != 2 {
		t.Errorf("%d places are taken by 2 connections", len(l.places))
	}
	_ = second.Close()
	_ = third.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	<-stopped
}
