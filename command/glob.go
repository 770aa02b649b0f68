package command

// MatchGlob reports whether the whole of s matches pattern, by the rules of KEYS, SCAN MATCH and CONFIG
// GET: * any bytes, ? one byte, [a-c] one of a class, [^a] one outside it, \x the byte x. The corners are
// Redis's: a class that is not closed ends with the pattern, [^] is any byte, and a lone \ at the end
// is itself.
//
// It goes back to the last star only: an earlier one could gain nothing by taking more. So the time is at
// most len(pattern) × len(s), whatever a client sends.
func MatchGlob(pattern, s []byte) bool {
	p, i := 0, 0
	afterStar, starTook := -1, 0 // the pattern after the last star; where in s its match ends
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			for p < len(pattern) && pattern[p] == '*' {
				p++
			}
			if p == len(pattern) {
				return true
			}
			afterStar, starTook = p, i
			continue
		}
		if p < len(pattern) {
			if next, ok := matchByte(pattern, p, s[i]); ok {
				p = next
				i++
				continue
			}
		}
		if afterStar < 0 {
			return false
		}
		starTook++
		p, i = afterStar, starTook
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchByte matches c with the element of the pattern at p, and returns where the next one begins.
func matchByte(pattern []byte, p int, c byte) (next int, ok bool) {
	switch pattern[p] {
	case '?':
		return p + 1, true
	case '[':
		return matchClass(pattern, p+1, c)
	case '\\':
		if p+1 < len(pattern) {
			p++
		}
	}
	return p + 1, pattern[p] == c
}

// matchClass matches c with the class that begins at p, after its bracket.
func matchClass(pattern []byte, p int, c byte) (next int, ok bool) {
	negated := p < len(pattern) && pattern[p] == '^'
	if negated {
		p++
	}
	for p < len(pattern) && pattern[p] != ']' {
		switch left := len(pattern) - p; {
		case left >= 2 && pattern[p] == '\\':
			ok = ok || pattern[p+1] == c
			p += 2
		case left >= 3 && pattern[p+1] == '-':
			lo, hi := min(pattern[p], pattern[p+2]), max(pattern[p], pattern[p+2])
			ok = ok || (lo <= c && c <= hi)
			p += 3
		default:
			ok = ok || pattern[p] == c
			p++
		}
	}
	return min(p+1, len(pattern)), ok != negated
}
