package main

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for something that takes well under a second.
const patience = 30 * time.Second

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// lineWaiter is a writer that notices a word.
type lineWaiter struct {
	word string
	mu   sync.Mutex
	buf  bytes.Buffer
}

func newLineWaiter(word string) *lineWaiter { return &lineWaiter{word: word} }

func (w *lineWaiter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func (w *lineWaiter) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func (w *lineWaiter) wait(t testing.TB) {
	t.Helper()
	eventually(t, "the text "+w.word, func() bool { return bytes.Contains([]byte(w.text()), []byte(w.word)) })
}
