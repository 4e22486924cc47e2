"""The drivers of Jobwire's side: what a user of the client and of the worker SDK would write."""
