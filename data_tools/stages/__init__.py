"""The stages from a corpus to shards; each may be killed and run again, or shared out to several processes."""
