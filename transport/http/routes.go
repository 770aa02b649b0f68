package http

import (
	"context"
	"fmt"
	"log/slog"
	nethttp "net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// checkTimeout is what the checks of one request have together. Orchestrators wait 1 s by default; they
	// take no answer for a no.
	checkTimeout = 2 * time.Second

	// Two servers scraping at once are normal; more are queueing up behind a slow collector.
	maxScrapes    = 4
	scrapeTimeout = 10 * time.Second
)

// Check is one condition of health. Run returns nil when it holds, else why not, in words for an operator. It
// must respect ctx.
type Check struct {
	Name string
	Run  func(ctx context.Context) error
}

// checks answers with the outcome of its checks.
type checks struct{ list []Check }

func (c checks) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	reason := ""
	var report strings.Builder
	for _, check := range c.list {
		err := check.Run(ctx)
		if err == nil {
			fmt.Fprintf(&report, "ok      %s\n", check.Name)
			continue
		}
		line := fmt.Sprintf("%s: %s", check.Name, oneLine(err.Error()))
		fmt.Fprintf(&report, "failed  %s\n", line)
		if reason == "" {
			reason = line
		}
	}

	status, verdict := nethttp.StatusOK, "ok"
	if reason != "" {
		status, verdict = nethttp.StatusServiceUnavailable, reason
	}
	if !r.URL.Query().Has("verbose") {
		report.Reset()
	}
	writeText(w, status, report.String()+verdict+"\n")
}

// oneLine keeps an answer to the promised single line.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// endpoint is one line of the index.
type endpoint struct{ pattern, summary string }

func (s *Server) index(w nethttp.ResponseWriter, _ *nethttp.Request) {
	var text strings.Builder
	text.WriteString("raftcask\n\n")
	table := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	s.mu.Lock()
	for _, e := range s.endpoints {
		fmt.Fprintf(table, "%s\t%s\n", e.pattern, e.summary)
	}
	s.mu.Unlock()
	_ = table.Flush() // writes into memory
	writeText(w, nethttp.StatusOK, text.String())
}

func writeText(w nethttp.ResponseWriter, status int, text string) {
	header := w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // a client that has gone needs no answer
}

func metricsHandler(gatherer prometheus.Gatherer, logger *slog.Logger) nethttp.Handler {
	return promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError, // one broken collector must not blind the others
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
		EnableOpenMetrics:   true,
	})
}
