"""Plans: what a program compiled ahead of time for devices that nobody has at hand will cost.

`topology` names devices, `compiling` compiles for them, `program` reads the compiled text (`hlo` parses it, `products`
counts the operations of a product), `costs` turns it into figures, `changes` estimates what would make it fit, and
`report` shows it. Without a compilation, `layers` and `estimate` say in closed form what a step needs, and `ranking`
orders the ways to divide it over devices.
"""
