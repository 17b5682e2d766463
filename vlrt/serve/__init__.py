"""`vlrt serve`: one package over HTTP, in the protocol of OpenAI's chat completions.

    requests   what a request says, checked to its types; prompt, pictures   as the model takes it
    line       whose turn it is; engine   answers computed in threads; reply, chunks   what is sent
    guard      who may ask; app   routes; protocol, server   sockets, time limits, signals

Safe by default: see `guard` for what a web page or another machine may not do.
"""
