"""Which order of nodes makes the most faithful circuits?"""
