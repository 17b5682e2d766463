"""`vlrt serve`: one package over HTTP, in the protocol of OpenAI's chat completions.

    requests   what a request says, checked to its types; pictures   where its pictures come from
    engine     whose turn it is, and answers computed in threads; answers   what goes back
    guard      who may ask; app   routes; protocol, server   sockets, time limits, signals

Safe by default: see `guard` for what a web page or another machine may not do.
"""
