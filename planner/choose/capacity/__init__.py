"""What to buy or rent: the best plan on every offered cluster, what it costs, when it is done, and how sure that is.

`pace` finds how fast a job goes on one cluster, `run` and `option` what that means in days, dollars and risk under the
terms of one offer, `answer` ranks and compares all of them. The fan-out over clusters goes through an executor that is
passed in; nothing here knows files, caches or tables.
"""
