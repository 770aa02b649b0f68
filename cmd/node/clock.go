//go:build !faults

package main

import "time"

// clock is what expiry times are judged by.
func clock() time.Time { return time.Now() }
