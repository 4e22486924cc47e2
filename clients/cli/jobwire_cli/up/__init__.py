"""`jobwire up`: an embedded store, a broker and a gateway as one supervised whole."""
