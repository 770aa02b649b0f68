package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftcask/raftcask/client"
)

// fakeStore is a cluster in memory whose answers a test can spoil.
type fakeStore struct {
	mu    sync.Mutex
	data  map[string][]byte
	limit int64
	calls int
	// spoil is asked before each operation; applied says that a Set takes effect all the same.
	spoil func(n int, op, key string) (applied bool, err error)
}

func newFakeStore() *fakeStore { return &fakeStore{data: map[string][]byte{}, limit: 1 << 20} }

func (s *fakeStore) enter(op, key string) (applied bool, err error) {
	s.calls++
	if s.spoil == nil {
		return true, nil
	}
	return s.spoil(s.calls, op, key)
}

func (s *fakeStore) Set(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	applied, err := s.enter("set", key)
	if applied {
		s.data[key] = value
	}
	return err
}

func (s *fakeStore) Get(_ context.Context, key string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.enter("get", key); err != nil {
		return nil, false, err
	}
	v, ok := s.data[key]
	return v, ok, nil
}

func (s *fakeStore) Keys(_ context.Context, prefix string, fn func(string)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.data {
		if strings.HasPrefix(key, prefix) {
			fn(key)
			fn(key) // a scan may bring a key twice
		}
	}
	return nil
}

func (s *fakeStore) MaxValueBytes(context.Context) (int64, error) { return s.limit, nil }
func (s *fakeStore) Close() error                                 { return nil }

// testTree is a directory with a bit of everything.
func testTree(t testing.TB) (dir string, want map[string]string) {
	t.Helper()
	dir = t.TempDir()
	want = map[string]string{"a.txt": "hello", "empty": "", "sub/dir/b": "x\x00y\r\n", "sub/c d": "space"}
	for name, content := range want {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"link": "a.txt", "loop": "."} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, want
}

func testOptions() bulkOptions {
	return bulkOptions{connection: connection{timeout: time.Second, output: "json"}, workers: 4, patience: time.Minute}
}

func importTo(t *testing.T, s store, dir string, o bulkOptions) (sum importSummary, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = runImport(t.Context(), s, dir, o, &out, &errs)
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &sum); err != nil {
			t.Fatalf("%v in %q", err, out.String())
		}
	}
	return sum, errs.String(), err
}

func verifyAgainst(t *testing.T, s store, dir string, o bulkOptions) (sum verifySummary, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = runVerify(t.Context(), s, "node", dir, o, &out, &errs)
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &sum); err != nil {
			t.Fatalf("%v in %q", err, out.String())
		}
	}
	return sum, errs.String(), err
}

func TestImportStoresEveryRegularFile(t *testing.T) {
	dir, want := testTree(t)
	s := newFakeStore()
	o := testOptions()
	o.prefix = "p/"
	sum, stderr, err := importTo(t, s, dir, o)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	if len(s.data) != len(want) {
		t.Errorf("%d keys, want %d", len(s.data), len(want))
	}
	for key, value := range want {
		if got, ok := s.data["p/"+key]; !ok || string(got) != value {
			t.Errorf("%s: got %q, %v", key, got, ok)
		}
	}
	if sum.Files != 4 || sum.Bytes != 15 || sum.Skipped != 2 || sum.Refused != 0 || !sum.Complete {
		t.Errorf("summary %+v", sum)
	}
}

func TestImportGoesOnThroughAnElection(t *testing.T) {
	dir, want := testTree(t)
	s := newFakeStore()
	s.spoil = func(n int, _, _ string) (bool, error) {
		switch n {
		case 1, 2:
			return false, &client.NotAppliedError{Cause: errors.New("no leader")}
		case 3:
			return false, &client.UnknownError{Cause: errors.New("connection broke")}
		case 4:
			return true, &client.UnknownError{Cause: errors.New("connection broke")}
		}
		return true, nil
	}
	sum, stderr, err := importTo(t, s, dir, testOptions())
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	if len(s.data) != len(want) || sum.Retries != 4 || sum.Unknown != 2 {
		t.Errorf("%d keys, summary %+v, want %d keys, 4 retries, 2 unknown outcomes", len(s.data), sum, len(want))
	}
}

func TestImportRefusesOneFileAndDoesTheOthers(t *testing.T) {
	dir, want := testTree(t)
	for _, name := range []string{"large", "sub/larger"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 101), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := newFakeStore()
	s.limit = 100
	s.spoil = func(_ int, _, key string) (bool, error) {
		if key == "a.txt" {
			return false, &client.ServerError{Command: "SET", Text: "ERR no"}
		}
		return true, nil
	}
	sum, stderr, err := importTo(t, s, dir, testOptions())
	if !errors.Is(err, errReported) {
		t.Errorf("got %v, want a failure that was reported by file", err)
	}
	if len(s.data) != len(want)-1 || sum.Refused != 3 || !sum.Complete {
		t.Errorf("%d keys, summary %+v", len(s.data), sum)
	}
	for _, name := range []string{"large", "larger", "a.txt"} {
		if !strings.Contains(stderr, name) {
			t.Errorf("%s is not named in\n%s", name, stderr)
		}
	}
	if !strings.Contains(stderr, "--max-value-bytes") {
		t.Errorf("no way out is named in\n%s", stderr)
	}
}

func TestImportStopsWhenTheClusterIsGone(t *testing.T) {
	dir, _ := testTree(t)
	s := newFakeStore()
	s.spoil = func(int, string, string) (bool, error) {
		return false, &client.NotAppliedError{Cause: errors.New("nobody")}
	}
	o := testOptions()
	o.patience = 50 * time.Millisecond
	sum, _, err := importTo(t, s, dir, o)
	if err == nil || errors.Is(err, errReported) || !strings.Contains(err.Error(), "run it again") || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("got %v", err)
	}
	if sum.Complete {
		t.Error("the summary says complete")
	}
}

func TestInterruptedImportSaysSo(t *testing.T) {
	dir, _ := testTree(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := newFakeStore()
	s.spoil = func(int, string, string) (bool, error) { cancel(); return true, nil }
	o := testOptions()
	o.workers = 1
	var out, errs bytes.Buffer
	if err := runImport(ctx, s, dir, o, &out, &errs); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(s.data) != 1 {
		t.Errorf("%d keys after an interruption at the first", len(s.data))
	}
}

func TestVerifyFindsWhatIsWrong(t *testing.T) {
	dir, want := testTree(t)
	good := func() *fakeStore {
		s := newFakeStore()
		for key, value := range want {
			s.data[key] = []byte(value)
		}
		return s
	}
	o := testOptions()
	o.exact = true
	if sum, stderr, err := verifyAgainst(t, good(), dir, o); err != nil || sum.Identical != 4 || !sum.Complete {
		t.Errorf("%+v, %v\n%s", sum, err, stderr)
	}
	for _, tc := range []struct {
		name   string
		change func(s *fakeStore)
		count  func(verifySummary) int64
		text   string
	}{
		{"missing", func(s *fakeStore) { delete(s.data, "empty") }, func(v verifySummary) int64 { return v.Missing }, "missing: empty"},
		{"one byte", func(s *fakeStore) { s.data["a.txt"] = []byte("hellO") }, func(v verifySummary) int64 { return v.Different }, "different: a.txt: from byte 4"},
		{"shorter", func(s *fakeStore) { s.data["a.txt"] = []byte("hell") }, func(v verifySummary) int64 { return v.Different }, "the file has 5 bytes, the value 4"},
		{"not empty", func(s *fakeStore) { s.data["empty"] = []byte("x") }, func(v verifySummary) int64 { return v.Different }, "different: empty"},
		{"extra", func(s *fakeStore) { s.data["more"] = nil }, func(v verifySummary) int64 { return v.Extra }, "extra: more"},
		{"error", func(s *fakeStore) {
			s.spoil = func(_ int, _, key string) (bool, error) {
				if key == "a.txt" {
					return false, &client.ServerError{Text: "ERR damaged"}
				}
				return true, nil
			}
		}, func(v verifySummary) int64 { return v.Failed }, "ERR damaged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := good()
			tc.change(s)
			sum, stderr, err := verifyAgainst(t, s, dir, o)
			if !errors.Is(err, errReported) || tc.count(sum) != 1 || !strings.Contains(stderr, tc.text) {
				t.Errorf("%+v, %v, stderr:\n%s", sum, err, stderr)
			}
		})
	}
}

func TestVerifyWithoutExactLeavesOtherKeysAlone(t *testing.T) {
	dir, want := testTree(t)
	s := newFakeStore()
	for key, value := range want {
		s.data[key] = []byte(value)
	}
	s.data["other"] = nil
	if _, stderr, err := verifyAgainst(t, s, dir, testOptions()); err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
}

func TestVerifyReadsAgainDuringAnElection(t *testing.T) {
	dir, want := testTree(t)
	s := newFakeStore()
	for key, value := range want {
		s.data[key] = []byte(value)
	}
	s.spoil = func(n int, _, _ string) (bool, error) {
		if n <= 3 {
			return false, &client.UnavailableError{Cause: errors.New("no leader")}
		}
		return true, nil
	}
	if sum, stderr, err := verifyAgainst(t, s, dir, testOptions()); err != nil || sum.Retries != 3 || sum.Identical != 4 {
		t.Errorf("%+v, %v\n%s", sum, err, stderr)
	}
}

func TestTreeThatCannotBeRead(t *testing.T) {
	if _, err := readTree(filepath.Join(t.TempDir(), "nowhere"), ""); err == nil {
		t.Error("a directory that does not exist was read")
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readTree(file, ""); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("got %v", err)
	}
	code, _, stderr := cli(t, "", "import", file, "--addr", closedPort(t), "--timeout", "100ms")
	if code != exitFailed || !strings.Contains(stderr, "not a directory") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

func TestFileThatGrewOverTheLimitIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	f := file{path: path, key: "f", bytes: 10} // as it was when the tree was listed
	if data, err := f.read(5000); err != nil || len(data) != 5000 {
		t.Errorf("got %d bytes, %v", len(data), err)
	}
	var large errTooLarge
	if _, err := f.read(4999); !errors.As(err, &large) {
		t.Errorf("got %v", err)
	}
}

func TestPrefixIsNoPattern(t *testing.T) {
	if got, want := globPrefix(`a*b?[c]\d/`), `a\*b\?\[c]\\d/*`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestProgressBar(t *testing.T) {
	p := &progress{files: 4, bytes: 200, verb: "imported", terminal: true, to: &bytes.Buffer{}, stop: make(chan struct{})}
	if p.bar() != "["+strings.Repeat(".", barWidth)+"]" {
		t.Errorf("empty: %s", p.bar())
	}
	p.add(100)
	if got := strings.Count(p.bar(), "#"); got != barWidth/2 {
		t.Errorf("half: %s", p.bar())
	}
	p.add(200) // a file grew
	if p.bar() != "["+strings.Repeat("#", barWidth)+"]" {
		t.Errorf("over: %s", p.bar())
	}
	if got, want := p.text(time.Second), "imported 2 of 4 files, 300 B of 200 B, 300 B/s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	empty := &progress{files: 2}
	empty.add(0)
	if got := strings.Count(empty.bar(), "#"); got != barWidth/2 {
		t.Errorf("a tree of empty files: %s", empty.bar())
	}
}

func TestMessageDoesNotTearTheBar(t *testing.T) {
	var out bytes.Buffer
	p := &progress{files: 1, bytes: 1, terminal: true, to: &out, stop: make(chan struct{}), begin: time.Now()}
	p.say("not imported: %s", "x")
	if got := out.String(); !strings.HasPrefix(got, "\r\x1b[Kraftcask: not imported: x\n\r[") {
		t.Errorf("got %q", got)
	}
}

func TestSummariesAreOneLine(t *testing.T) {
	for _, r := range []result{importSummary{Seconds: 1}, verifySummary{Seconds: 1}} {
		var out bytes.Buffer
		if err := r.print(&out); err != nil || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%T: %q, %v", r, out.String(), err)
		}
	}
}

func BenchmarkReadTree(b *testing.B) {
	dir := b.TempDir()
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := readTree(dir, ""); err != nil {
			b.Fatal(err)
		}
	}
}
