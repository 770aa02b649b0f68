package main

import (
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The types of flag values. Each checks its text when it is set, so that a
// mistake is reported with the name of the flag, variable or line that holds it,
// and not when the value is used. They satisfy pflag.Value.

// hostPort is an address to listen on or to dial.
type hostPort struct {
	text  *string
	empty bool // an empty text is allowed: "not given"
}

func (v hostPort) String() string { return deref(v.text) }
func (v hostPort) Type() string   { return "host:port" }

func (v hostPort) Set(text string) error {
	if text == "" && v.empty {
		*v.text = ""
		return nil
	}
	if err := checkHostPort(text); err != nil {
		return err
	}
	*v.text = text
	return nil
}

func checkHostPort(text string) error {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("must be host:port, such as 127.0.0.1:7379 or [::1]:7379")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("port %q must be a number from 0 to 65535", port)
	}
	return nil
}

// hostPorts is a list of addresses, separated by commas or given repeatedly.
type hostPorts struct {
	list    *[]string
	changed *bool // false: the list still holds the default
}

func (v hostPorts) String() string {
	if v.list == nil {
		return ""
	}
	return strings.Join(*v.list, ",")
}
func (v hostPorts) Type() string { return "host:port,…" }

func (v hostPorts) Set(text string) error {
	var parsed []string
	for _, part := range strings.Split(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		host, port, _ := net.SplitHostPort(part)
		if err := checkHostPort(part); err != nil {
			return fmt.Errorf("%q %w", part, err)
		}
		if host == "" || port == "0" {
			return fmt.Errorf("%q: an address to connect to needs a host and a port", part)
		}
		parsed = append(parsed, part)
	}
	if len(parsed) == 0 {
		return fmt.Errorf("must name at least one host:port")
	}
	if !*v.changed {
		*v.list = nil
		*v.changed = true
	}
	*v.list = append(*v.list, parsed...)
	return nil
}

// size is a number of bytes: 1048576, 512KiB, 8MiB, 256MiB, 2GiB.
type size struct {
	bytes    *int64
	min, max int64
}

func (v size) String() string {
	if v.bytes == nil {
		return ""
	}
	return formatSize(*v.bytes)
}
func (v size) Type() string { return "size" }

func (v size) Set(text string) error {
	n, err := parseSize(text)
	if err != nil {
		return err
	}
	if n < v.min || n > v.max {
		return fmt.Errorf("must be from %s to %s", formatSize(v.min), formatSize(v.max))
	}
	*v.bytes = n
	return nil
}

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"B", 1}, {"", 1}}

func parseSize(text string) (int64, error) {
	for _, unit := range sizeUnits {
		digits, found := strings.CutSuffix(text, unit.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil {
			continue
		}
		if n > math.MaxInt64/unit.bytes || n < 0 {
			break
		}
		return n * unit.bytes, nil
	}
	return 0, fmt.Errorf("must be a size in bytes or with a unit: B, KiB, MiB, GiB or TiB, such as 256MiB")
}

// formatSize writes n exactly: in the largest unit that divides it.
func formatSize(n int64) string {
	for _, unit := range []int{3, 2, 1, 0} {
		u := sizeUnits[unit]
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// humanSize writes n for people: three digits or so.
func humanSize(n int64) string {
	value, unit := float64(n), "B"
	for _, u := range sizeUnits[:4] {
		if n < u.bytes {
			break
		}
		value, unit = float64(n)/float64(u.bytes), u.suffix
	}
	if unit == "B" || value >= 100 {
		return fmt.Sprintf("%.0f %s", value, unit)
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

// count is a whole number within bounds.
type count struct {
	n        *int
	min, max int
}

func (v count) String() string {
	if v.n == nil {
		return ""
	}
	return strconv.Itoa(*v.n)
}
func (v count) Type() string { return "int" }

func (v count) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < v.min || n > v.max {
		return fmt.Errorf("must be a whole number from %d to %d", v.min, v.max)
	}
	*v.n = n
	return nil
}

// span is a positive duration: 500ms, 5s, 1m.
type span struct{ d *time.Duration }

func (v span) String() string {
	if v.d == nil {
		return ""
	}
	return v.d.String()
}
func (v span) Type() string { return "duration" }

func (v span) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return fmt.Errorf("must be a positive duration, such as 500ms, 5s or 1m")
	}
	*v.d = d
	return nil
}

// choice is one of a few words.
type choice struct {
	text    *string
	choices []string
}

func (v choice) String() string { return deref(v.text) }
func (v choice) Type() string   { return strings.Join(v.choices, "|") }

func (v choice) Set(text string) error {
	if !slices.Contains(v.choices, text) {
		return fmt.Errorf("must be one of %s", strings.Join(v.choices, ", "))
	}
	*v.text = text
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// hasPortZero reports an address for which the system picks a port.
func hasPortZero(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	return err == nil && port == "0"
}
