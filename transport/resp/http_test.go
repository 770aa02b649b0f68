package resp

import "testing"

// TestBrowserCannotSendCommands: a page that makes a browser post to the port gets nothing run and no answer.
func TestBrowserCannotSendCommands(t *testing.T) {
	for _, request := range []string{
		"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nset stolen yes\r\n",
		"Host: localhost:7379\r\n\r\nset stolen yes\r\n",
	} {
		srv := start(t, Config{}, newFake())
		bad := dial(t, srv)
		bad.send(request)
		bad.expectEnd()
		dial(t, srv).ask("GET stolen\r\n", "$-1\r\n")
	}
}
