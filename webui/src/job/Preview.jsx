// The picture that a job's address leads to, of this server or of where the farm and the page's policy let pictures be from.
// Others are links only, and not asked for.
import { useState } from 'preact/hooks'
import { picturesFrom } from '../api.js'

const PICTURE = /\.(png|jpe?g|gif|webp|avif|svg)$/i

function pictureOf(url) {
  try {
    const address = new URL(url, location.origin)
    const known = address.origin === location.origin || picturesFrom.value.includes(address.origin)
    return known && PICTURE.test(address.pathname) ? address.href : ''
  } catch {
    return ''
  }
}

export function Preview({ url }) {
  const [broken, setBroken] = useState('')
  const picture = url ? pictureOf(url) : ''
  if (!picture || broken === picture) return null
  return (
    <img
      class="preview-picture"
      referrerpolicy="no-referrer"
      loading="lazy"
      src={picture}
      alt="What the job made"
      onError={() => setBroken(picture)}
    />
  )
}
