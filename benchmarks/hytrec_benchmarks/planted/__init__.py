"""The planted log: is what happened thousands of events ago remembered, where the truth is known?"""
