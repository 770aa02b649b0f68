package command

import (
	"strconv"
	"time"
)

// maxStaleness is a day: an older bound is most likely a mistake in the unit.
const maxStaleness = 24 * time.Hour

// ParseStaleness reads how old the data of a read may be, in milliseconds.
func ParseStaleness(arg []byte) (time.Duration, bool) {
	ms, err := strconv.ParseInt(string(arg), 10, 64)
	d := time.Duration(ms) * time.Millisecond
	if err != nil || ms < 1 || ms > int64(maxStaleness/time.Millisecond) {
		return 0, false
	}
	return d, true
}
