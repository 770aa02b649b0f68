package command

import "strconv"

// ParseInt accepts exactly the decimal form that Redis writes: no plus sign, no leading zero, no space.
func ParseInt(b []byte) (int64, bool) {
	negative := len(b) > 0 && b[0] == '-'
	digits := b
	if negative {
		digits = b[1:]
	}
	if len(digits) == 1 && digits[0] == '0' && !negative {
		return 0, true
	}
	// 19 digits are enough for 2^63, and cannot overflow the uint64 below.
	if len(digits) == 0 || len(digits) > 19 || digits[0] < '1' || digits[0] > '9' {
		return 0, false
	}
	var n uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	if negative {
		return int64(-n), n <= 1<<63
	}
	return int64(n), n < 1<<63
}

// CheckDBIndex returns the error reply for the number of a database, nil for 0, the only one.
func CheckDBIndex(b []byte) *Reply {
	n, ok := ParseInt(b)
	switch {
	case !ok:
		return &errNotInteger
	case n < -1<<31 || n > 1<<31-1:
		return &errDBNumber
	case n != 0:
		return &errDBIndex
	}
	return nil
}

// parseCursor reads the cursor of SCAN, an unsigned 64-bit number.
func parseCursor(b []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(b), 10, 64)
	return n, err == nil
}

// IsWord reports whether b is the given word, whatever the case of either: names, options, subcommands.
func IsWord(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i, c := range b {
		w := word[i]
		if lower := w | 0x20; c != w && (c|0x20 != lower || lower < 'a' || lower > 'z') {
			return false
		}
	}
	return true
}
