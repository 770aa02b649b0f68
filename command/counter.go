package command

// The commands that take a value for a number.

import (
	"math"
	"math/big"
	"strconv"
)

func runIncr(tx Tx, args [][]byte) Reply { return addInt(tx, args[1], 1) }

func runDecr(tx Tx, args [][]byte) Reply { return addInt(tx, args[1], -1) }

func runIncrBy(tx Tx, args [][]byte) Reply {
	n, ok := ParseInt(args[2])
	if !ok {
		return errNotInteger
	}
	return addInt(tx, args[1], n)
}

func runDecrBy(tx Tx, args [][]byte) Reply {
	n, ok := ParseInt(args[2])
	switch {
	case !ok:
		return errNotInteger
	case n == math.MinInt64: // has no opposite
		return Err("ERR decrement would overflow")
	}
	return addInt(tx, args[1], -n)
}

// addInt adds n to the integer in key, 0 if there is none. The expiry stays.
func addInt(tx Tx, key []byte, n int64) Reply {
	value, meta, found, err := tx.Get(key)
	if err != nil {
		return failed(err)
	}
	var old int64
	if found {
		var ok bool
		if old, ok = ParseInt(value); !ok {
			return errNotInteger
		}
	}
	if (n < 0 && old < math.MinInt64-n) || (n > 0 && old > math.MaxInt64-n) {
		return errOverflow
	}
	sum := old + n
	return put(tx, key, strconv.AppendInt(nil, sum, 10), meta.ExpireAt, Int(sum))
}

const (
	// floatPrecision is the mantissa of the x87 long double in which Redis adds, 64 bits, so that the
	// results agree to the last digit.
	floatPrecision = 64
	// floatDecimals is how many digits after the point Redis prints, before it drops trailing zeros.
	floatDecimals = 17
	// maxFloatBytes is Redis's MAX_LONG_DOUBLE_CHARS, 5 KiB: all digits of the largest long double.
	maxFloatBytes = 5 << 10
	// maxFloatExponent is the binary exponent at which a long double becomes infinite.
	maxFloatExponent = 16384
)

func runIncrByFloat(tx Tx, args [][]byte) Reply {
	value, meta, found, err := tx.Get(args[1])
	if err != nil {
		return failed(err)
	}
	old := new(big.Float).SetPrec(floatPrecision)
	if found {
		var ok bool
		if old, ok = parseFloat(value); !ok {
			return errNotFloat
		}
	}
	n, ok := parseFloat(args[2])
	if !ok {
		return errNotFloat
	}
	if old.IsInf() || n.IsInf() {
		return errNotFinite
	}
	sum := new(big.Float).SetPrec(floatPrecision).Add(old, n)
	if sum.MantExp(nil) > maxFloatExponent {
		return errNotFinite
	}
	text := formatFloat(sum)
	return put(tx, args[1], text, meta.ExpireAt, Bulk(text))
}

var errNotFinite = Err("ERR increment would produce NaN or Infinity")

// parseFloat reads a number as C's strtold does: decimal or hexadecimal, or an infinity. Not a number is
// no number.
func parseFloat(b []byte) (*big.Float, bool) {
	if len(b) == 0 || len(b) >= maxFloatBytes {
		return nil, false
	}
	base := 10
	digits := b
	if digits[0] == '-' || digits[0] == '+' {
		digits = digits[1:]
	}
	if len(digits) > 1 && digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X') {
		base = 0 // by its prefix
	}
	for _, c := range digits {
		if c == '_' || (base == 10 && (c == 'p' || c == 'P')) { // Go's notation, not C's
			return nil, false
		}
	}
	if IsWord(digits, "INF") || IsWord(digits, "INFINITY") {
		return new(big.Float).SetPrec(floatPrecision).SetInf(b[0] == '-'), true
	}
	f, _, err := big.ParseFloat(string(b), base, floatPrecision, big.ToNearestEven)
	if err != nil || f.IsInf() || f.MantExp(nil) > maxFloatExponent {
		return nil, false
	}
	return f, true
}

func formatFloat(f *big.Float) []byte {
	text := f.Append(nil, 'f', floatDecimals)
	for text[len(text)-1] == '0' { // there is a point: floatDecimals digits follow it
		text = text[:len(text)-1]
	}
	if text[len(text)-1] == '.' {
		text = text[:len(text)-1]
	}
	if string(text) == "-0" {
		text = text[1:]
	}
	return text
}
