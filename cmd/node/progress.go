package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// progress shows how far a long command is: a bar that is drawn again and again
// when the output is a terminal, now and then a line when it is not.
type progress struct {
	to       io.Writer
	terminal bool
	verb     string
	files    int64
	bytes    int64
	begin    time.Time

	doneFiles, doneBytes atomic.Int64

	mu   sync.Mutex // guards to: the bar and messages must not mix
	stop chan struct{}
	over sync.WaitGroup
}

const (
	barEvery  = 150 * time.Millisecond
	lineEvery = 5 * time.Second
	barWidth  = 30
)

// startProgress begins to show; finish ends it.
func startProgress(to io.Writer, verb string, t *tree) *progress {
	p := &progress{
		to: to, terminal: isTerminal(to), verb: verb,
		files: int64(len(t.files)), bytes: t.bytes,
		begin: time.Now(), stop: make(chan struct{}),
	}
	p.over.Go(p.run)
	return p
}

func (p *progress) run() {
	every := lineEvery
	if p.terminal {
		every = barEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		}
	}
}

// add counts a file that is done.
func (p *progress) add(bytes int64) {
	p.doneFiles.Add(1)
	p.doneBytes.Add(bytes)
}

// say writes a line without tearing the bar.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	say(p.to, format, args...)
	if p.terminal {
		p.draw()
	}
}

// finish removes the bar.
func (p *progress) finish() time.Duration {
	took := time.Since(p.begin)
	close(p.stop)
	p.over.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	return took
}

// erase and draw are called with mu held. Nobody is left to tell if they fail.
func (p *progress) erase() {
	if p.terminal {
		_, _ = io.WriteString(p.to, "\r\x1b[K")
	}
}

func (p *progress) draw() {
	text := p.text(time.Since(p.begin))
	if p.terminal {
		_, _ = fmt.Fprintf(p.to, "\r%s %s\x1b[K", p.bar(), text)
		return
	}
	say(p.to, "%s", text)
}

func (p *progress) text(took time.Duration) string {
	done, bytes := p.doneFiles.Load(), p.doneBytes.Load()
	seconds := max(took.Seconds(), 0.001)
	return fmt.Sprintf("%s %d of %d files, %s of %s, %s/s", p.verb, done, p.files,
		humanSize(bytes), humanSize(p.bytes), humanSize(int64(float64(bytes)/seconds)))
}

// bar is filled by bytes, or by files when all are empty.
func (p *progress) bar() string {
	part, whole := p.doneBytes.Load(), p.bytes
	if whole == 0 {
		part, whole = p.doneFiles.Load(), max(p.files, 1)
	}
	filled := int(min(part*barWidth/whole, barWidth))
	return "[" + strings.Repeat("#", filled) + strings.Repeat(".", barWidth-filled) + "]"
}
