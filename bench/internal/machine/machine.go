// Package machine tells where a benchmark ran.
package machine

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Machine is where and with what it was measured; a part that could not be found out reads "unknown".
type Machine struct {
	Commit            string
	CPU, Kernel, Disk string
	Load              string // averages of the load when the run began: what else the machine was doing
}

// Describe looks around; dir is on the disk that is measured.
func Describe(ctx context.Context, dir string) Machine {
	m := Machine{
		Commit: Output(ctx, "git", "rev-parse", "--short=12", "HEAD"),
		Kernel: Output(ctx, "uname", "-sr"),
		CPU:    "unknown", Disk: "unknown", Load: "unknown",
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(text))[:3], ", ")
	}
	if Output(ctx, "git", "status", "--porcelain") != "" {
		m.Commit += " with uncommitted changes"
	}
	if value, ok := Field("/proc/cpuinfo", "model name"); ok {
		m.CPU = value
	}
	if mount, ok := mountOf(dir); ok {
		m.Disk = mount
	}
	return m
}

// Output returns the first line that a command prints.
func Output(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// Field returns the value of the first line `name : value` of a file.
func Field(file, name string) (string, bool) {
	f, err := os.Open(file)
	if err != nil {
		return "", false
	}
	defer func() { _ = f.Close() }() // only read
	for scan := bufio.NewScanner(f); scan.Scan(); {
		left, right, ok := strings.Cut(scan.Text(), ":")
		if ok && strings.TrimSpace(left) == name {
			return strings.TrimSpace(right), true
		}
	}
	return "", false
}

// mountOf returns file system and device of the mount that holds dir.
func mountOf(dir string) (string, bool) {
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return "", false
	}
	best, found := "", ""
	for line := range strings.Lines(string(text)) {
		parts := strings.Fields(line)
		if len(parts) < 3 {
			continue
		}
		point := filepath.Clean(parts[1])
		inside := point == "/" || dir == point || strings.HasPrefix(dir, point+"/")
		if inside && len(point) >= len(best) {
			best, found = point, parts[2]+" on "+parts[0]
		}
	}
	return found, found != ""
}
