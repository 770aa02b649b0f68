//go:build !linux

package vfs

import "errors"

// Unmap has nothing to end: no File is a Mapper here.
func Unmap([]byte) error { return errors.ErrUnsupported }

// Protect has nothing to protect: no File is a Mapper here.
func Protect([]byte) error { return errors.ErrUnsupported }

// Detach has nothing to detach: no File is a Mapper here.
func Detach([]byte) error { return errors.ErrUnsupported }

// AdviseRandom has nothing to advise on: no File is a Mapper here.
func AdviseRandom([]byte) error { return errors.ErrUnsupported }

// PageBytes is a size that all systems' pages have as a divisor.
const PageBytes = 4 << 10

// Populate has nothing to populate: no File is a Mapper here.
func Populate([]byte) error { return errors.ErrUnsupported }
