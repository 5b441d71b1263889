"""The ladder's language models: names, one character at a time, from a table of counts to an LSTM.

Climb in this order: `data` (what is predicted), `bigram` (count, then learn the same table by gradient descent), `mlp`
(look further back; why initialisation matters; BatchNorm from scratch), `recurrent` (look back without a limit),
`sample` (write new names), `train` (the one loop that fits them all). The question is always the same: given the
letters so far, how probable is each next letter? The score is always the same: the mean negative log-likelihood (NLL)
per letter, in nats.
"""
