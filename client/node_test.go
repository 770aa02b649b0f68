package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestAllNodesDownIsADefiniteNo(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 3)
	c := newClient(t, nodes)
	for _, n := range nodes {
		n.stop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	_, err := c.Incr(ctx, "n")
	var no *NotAppliedError
	if !errors.As(err, &no) || !errors.Is(err, ErrNotApplied) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrOutcomeUnknown) {
		t.Fatalf("write: %v", err)
	}
	if no.Attempts < 2 || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "safe to try again") {
		t.Errorf("write: %d tries, %v", no.Attempts, err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	var down *UnavailableError
	if _, err := c.Get(ctx, "k"); !errors.As(err, &down) || !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}

func TestDefaultTimeoutEndsTheCall(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	f.stop()
	c := newClient(t, []*fakeNode{f}, func(o *Options) { o.Timeout = 50 * time.Millisecond })
	if _, err := c.Incr(context.Background(), "n"); !errors.Is(err, ErrNotApplied) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCallsGoOnWhenTheNodeIsBack(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	if _, err := c.Incr(context.Background(), "n"); err != nil {
		t.Fatal(err)
	}
	f.stop()
	var calls sync.WaitGroup
	for range 50 { // more than go-redis' own circuit breaker would stand
		calls.Go(func() {
			if _, err := c.Incr(context.Background(), "n"); err != nil {
				t.Errorf("call: %v", err)
			}
		})
	}
	waitFor(t, "the node to be down", func() bool {
		c.nodes.mu.Lock()
		defer c.nodes.mu.Unlock()
		return c.nodes.nodes[f.addr].failures >= 5
	})
	f.start()
	calls.Wait()
	if got := f.store.get("n"); got != "51" {
		t.Errorf("51 calls counted to %s", got)
	}
}

// The server closes idle connections: the next write finds out before it is sent.
func TestIdleConnectionThatWasCutIsReplaced(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	for i := range 5 {
		if n, err := c.Incr(context.Background(), "n"); err != nil || n != int64(i+1) {
			t.Fatalf("call %d: %d, %v", i, n, err)
		}
		waitFor(t, "the connections to end", func() bool {
			f.cutAll() // again and again: a discovery may be connecting
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.conns) == 0
		})
	}
}

func TestRefusedConnectionIsNotAnUnknownWrite(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 2)
	nodes[0].greeting = "-ERR max number of clients reached\r\n"
	c := newClient(t, nodes)
	if _, err := c.Incr(context.Background(), "n"); err != nil {
		t.Errorf("the other node has room: %v", err)
	}
	only := newClient(t, nodes[:1])
	nodes[0].store.mu.Lock()
	nodes[0].store.nodes = nodes[:1] // nobody tells of the other one
	nodes[0].store.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := only.Incr(ctx, "n"); !errors.Is(err, ErrNotApplied) || !strings.Contains(err.Error(), "max number of clients") {
		t.Errorf("got %v", err)
	}
}

func TestOtherPortIsRecognized(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	f.greeting = "HTTP/1.1 400 Bad Request\r\n"
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := newClient(t, []*fakeNode{f}).Get(ctx, "k"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "not a Redis port") {
		t.Errorf("got %v", err)
	}
}

func TestWrongPasswordIsFinal(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	f.greeting = "-NOAUTH Authentication required.\r\n"
	f.hello = "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
	f.replies("AUTH", f.hello, f.hello, f.hello, f.hello, f.hello, f.hello)
	c := newClient(t, []*fakeNode{f}, func(o *Options) { o.Username, o.Password = "u", "p" })
	var answer *ServerError
	if _, err := c.Incr(context.Background(), "n"); !errors.As(err, &answer) || answer.Code() != "WRONGPASS" {
		t.Errorf("one command: %v", err)
	}
	var b Batch
	b.IncrBy("n", 1)
	b.IncrBy("n", 1)
	if _, err := c.Run(context.Background(), &b); !errors.As(err, &answer) || answer.Code() != "WRONGPASS" {
		t.Errorf("a batch: %v", err)
	}
}

// A node that accepts connections and says nothing, as a stopped process does, costs DialTimeout and no unknown
// write.
func TestHangingNodeIsPassedBy(t *testing.T) {
	checkLeaks(t)
	nodes := newCluster(t, 2)
	nodes[1].lead()
	nodes[0].answer(func([]string) string { return hang })
	c := newClient(t, nodes, func(o *Options) { o.DialTimeout = 100 * time.Millisecond })
	for range 5 {
		if _, err := c.Incr(context.Background(), "n"); err != nil {
			t.Fatal(err)
		}
	}
	if got := nodes[0].count("INCR"); got != 0 {
		t.Errorf("%d writes were sent to the hanging node", got)
	}
}

func TestCanceledCallReturnsAtOnce(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Incr(ctx, "n"); !errors.Is(err, ErrNotApplied) || !errors.Is(err, context.Canceled) {
		t.Errorf("before: %v", err)
	}
	if got := f.count("INCR"); got != 0 {
		t.Errorf("the canceled write was sent %d times", got)
	}

	// The context has no deadline: only its end can stop the call.
	underWay := func(name string) context.Context {
		ctx, cancel := context.WithCancel(context.Background())
		f.answer(func(args []string) string {
			if args[0] == name {
				cancel()
				return hang
			}
			return serve
		})
		return ctx
	}
	if _, err := c.Incr(underWay("INCR"), "n"); !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) {
		t.Errorf("write under way: %v", err)
	}
	if _, err := c.Get(underWay("GET"), "n"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("read under way: %v", err)
	}
}

// A caller who gives up while all connections are in use has certainly sent nothing.
func TestWaitingForAConnectionIsNotSent(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	f.answer(func(args []string) string {
		if args[0] == "GET" {
			return hang
		}
		return serve
	})
	c := newClient(t, []*fakeNode{f}, func(o *Options) { o.PoolSize = 1 })
	blocked, unblock := context.WithCancel(context.Background())
	var reader sync.WaitGroup
	reader.Go(func() { _, _ = c.Get(blocked, "k") })
	waitFor(t, "the only connection to be in use", func() bool { return f.count("GET") == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Incr(ctx, "n"); !errors.Is(err, ErrNotApplied) {
		t.Errorf("got %v", err)
	}
	unblock()
	reader.Wait()
	if got := f.count("INCR"); got != 0 {
		t.Errorf("the write was sent %d times", got)
	}
}

func TestCloseEndsCalls(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	f.answer(func(args []string) string {
		if args[0] == "INCR" || args[0] == "GET" {
			return hang
		}
		return serve
	})
	c := newClient(t, []*fakeNode{f})
	var calls sync.WaitGroup
	for range 10 {
		calls.Go(func() {
			if _, err := c.Incr(context.Background(), "n"); !errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("a write under way: %v", err)
			}
		})
		calls.Go(func() {
			if _, err := c.Get(context.Background(), "n"); !errors.Is(err, ErrClosed) {
				t.Errorf("a read under way: %v", err)
			}
		})
	}
	waitFor(t, "the calls to be sent", func() bool { return f.count("INCR") == 10 && f.count("GET") == 10 })
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	calls.Wait()
	if err := c.Set(context.Background(), "k", nil); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrNotApplied) {
		t.Errorf("after Close: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// go-redis would print its own complaints to the standard error of the program.
func TestNothingIsPrinted(t *testing.T) {
	checkLeaks(t)
	log := &countingLog{}
	redis.SetLogger(log)
	f := newFake(t)
	c := newClient(t, []*fakeNode{f})
	if _, err := c.Incr(context.Background(), "n"); err != nil {
		t.Fatal(err)
	}
	f.replies("INCR", cut)
	_, _ = c.Incr(context.Background(), "n")
	for range 20 { // Close while a discovery is under way
		brief := newClient(t, []*fakeNode{f})
		_, _ = brief.Get(context.Background(), "n")
		if err := brief.Close(); err != nil {
			t.Error(err)
		}
	}
	f.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, _ = c.Incr(ctx, "n")
	log.mu.Lock()
	defer log.mu.Unlock()
	if len(log.lines) > 0 {
		t.Errorf("printed: %q", log.lines)
	}
}

type countingLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *countingLog) Printf(_ context.Context, format string, _ ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, format)
}

func TestDialerIsUsed(t *testing.T) {
	checkLeaks(t)
	f := newFake(t)
	var mu sync.Mutex
	dialed := 0
	c := newClient(t, []*fakeNode{f}, func(o *Options) {
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			mu.Lock()
			dialed++
			mu.Unlock()
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
	})
	if err := c.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if dialed == 0 {
		t.Error("the Dialer was not asked")
	}
}

func TestTLSProtectsTheConnection(t *testing.T) {
	checkLeaks(t)
	cert, roots := selfSigned(t)
	f := newFake(t)
	f.stop()
	f.tls = &tls.Config{Certificates: []tls.Certificate{cert}}
	f.start()

	c := newClient(t, []*fakeNode{f}, func(o *Options) { o.TLS = &tls.Config{RootCAs: roots} })
	for i := range 10 {
		if n, err := c.Incr(context.Background(), "n"); err != nil || n != int64(i+1) {
			t.Fatalf("call %d: %d, %v", i, n, err)
		}
	}
	for name, cfg := range map[string]*tls.Config{
		"an unknown authority": {},
		"another server name":  {RootCAs: roots, ServerName: "other.example"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		wrong := newClient(t, []*fakeNode{f}, func(o *Options) { o.TLS = cfg })
		if _, err := wrong.Incr(ctx, "n"); !errors.Is(err, ErrNotApplied) || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if got := f.store.get("n"); got != "10" {
		t.Errorf("10 calls counted to %s", got)
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
