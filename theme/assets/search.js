/* The search worker reads questions as they are typed. The build puts this before Material's own worker. */

{
  const improve = ({ Index, TokenSet }) => {
    // lunr knows a node of its word tree by its text, where the digits of edges and of numbers run together: it takes
    // different nodes for the same, and then knows neither 1 nor 10.
    TokenSet.prototype.toString = function () {
      const edges = Object.keys(this.edges).sort().map((edge) => `${edge}${this.edges[edge].id},`)
      return this._str || `${+this.final}${edges.join("")}`
    }
    // A section with all the words comes before one that has some of them often.
    const { search } = Index.prototype
    Index.prototype.search = function (question) {
      const words = question.split(" ").map((word) => word.replace(/\*$|\^1$/, ""))
      const share = (found) => words.filter((word) => found.some((term) => term.startsWith(word))).length / words.length
      const weighed = (result) => ({ ...result, score: result.score * share(Object.keys(result.matchData.metadata)) })
      return search.call(this, question).map(weighed)
    }
  }

  // Words that say something, cut to what their forms have in common: what starts with that is found. Numbers and
  // short words are found as they are (^1 says so to lunr), except the last, which may not be complete.
  const EMPTY = /^(need(s|ed)?|happens?|vs)$/ // beside the words that lunr knows to say nothing
  const plain = (question, { stemmer, stopWordFilter, tokenizer, Token }) => {
    const words = question.toLowerCase().replace(/[~^:"\\]/g, " ").split(tokenizer.separator).map((word) => word.replace(/^\W+|\W+$/g, ""))
    const said = words.filter((word) => word && !EMPTY.test(word) && stopWordFilter(new Token(word)))
    const common = (word) => {
      const stem = stemmer(new Token(word)).toString()
      const n = [...word].findIndex((letter, i) => letter !== stem[i])
      return n < 4 ? word : word.slice(0, n)
    }
    return (said.length ? said : words.filter(Boolean))
      .map((word, i, { length }) => (i < length - 1 && (word.length < 3 || !isNaN(word)) ? `${word}^1` : common(word)))
      .join(" ")
  }

  addEventListener("message", ({ data }) => {
    if (data.type === 0) improve(lunr)
    if (data.type === 2) data.data = plain(data.data, lunr)
  })
}
