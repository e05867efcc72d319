// The picture that a job's address leads to. The page's policy lets in pictures of this server only; others are links.
import { useState } from 'preact/hooks'

const PICTURE = /\.(png|jpe?g|gif|webp|avif|svg)$/i

function pictureOf(url) {
  try {
    const address = new URL(url, location.origin)
    return address.origin === location.origin && PICTURE.test(address.pathname) ? address.href : ''
  } catch {
    return ''
  }
}

export function Preview({ url }) {
  const [broken, setBroken] = useState('')
  const picture = url ? pictureOf(url) : ''
  if (!picture || broken === picture) return null
  return <img class="preview-picture" src={picture} alt="What the job made" onError={() => setBroken(picture)} />
}
