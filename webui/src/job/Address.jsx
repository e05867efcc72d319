// A job's address: a link where its scheme is one that the farm lets the page open, else only a text.
import { schemes } from '../api.js'

const schemeOf = (url) => /^[a-z][a-z0-9+.-]*(?=:)/i.exec(url)?.[0].toLowerCase()

export function Address({ url }) {
  const scheme = schemeOf(url)
  if (!schemes.value.includes(scheme)) return url
  const tab = scheme.startsWith('http') ? '_blank' : undefined // a program that opens it needs no tab
  return (
    <a href={url} target={tab} rel="noreferrer noopener">
      {url}
    </a>
  )
}
