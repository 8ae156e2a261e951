"""Entities -> HTTP: the only room that knows the web, the only one that is asynchronous.

    app, server   all of it put together; a process around it
    settings      the environment -> numbers, checked once
    schemas       JSON -> a valid request; the shape of every reply
    items         what a request sends: texts, pages, images
    contents      a page as it was sent -> checked, in the order of reading
    images, ocr   images -> pages, by a part that is switched on; that part
    problems      errors -> application/problem+json
    batcher       many requests' windows -> batches of one model
    registry      models by name, each with its batcher and its state
    reading       what every request goes through: encode, wait, the model's answer to each item
    extraction    texts and pages as read -> entities -> reply
    embedding     texts as read -> vectors, or a ranking by them -> reply
    metrics       what Prometheus reads
    middleware    request id, log line, key, limits of the body
    routes        paths -> the above

Nothing but `server` loads a model, so that everything else runs without torch.
"""
