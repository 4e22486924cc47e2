"""Webhooks: a signed HTTP request to an address of the operator's for each job that ends.

A process of its own, so that HTTP to others delays nobody who watches. It is a client of the contract like any other: it hears of ends on a Subscribe stream,
makes a job for each delivery in a queue of its own, and works that queue with the worker SDK. So retries, dead letters, pauses and explanations of deliveries
are those of jobs.

    webhooks_file   the file: endpoints, checked in full before anything starts
    endpoints       what an endpoint wants to hear of
    ends            what is followed on the feed, and what of it is an end
    look_back       what was missed while nobody followed
    deliveries      an end becomes a job for each endpoint that wants it
    bodies          what a request says
    sending         the handler: one request, and what its answer means
    network         which addresses may be connected to
    secrets         keys, and the signature
    server          the process
"""
